"""Plant IT over OPC UA: the line's state, events and methods, from what any subscriber hears.

One asyncio loop serves the clients and listens to the line: one that hangs is seen by the clients and by the watchdog.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import structlog
from asyncua import Server, ua

from linescan.codec import type_name
from linescan.errors import ConfigError, PeerError
from linescan.line import Line
from linescan.messages import Done, Message, Order, Refused, RollCommand, RollState
from linescan.stages.line_view import LineView
from linescan.stages.opcua_space import Space
from linescan.stages.opcua_trust import Permissions, Sessions, Trust, load_identity
from linescan.subscriber import Subscriber
from linescan.transport import Network, waiting

TURN_S = 0.02
SHOW_S = 0.1  # between looks at what has changed
QUICK_S = 0.5  # how long a method waits for the publisher; what takes longer completes asynchronously
ANSWER_S, PREPARE_S = 5.0, 75.0  # until it counts as failed; a roll's start may have a recipe to prepare
CONNECTIONS = 64
AT_ONCE = 50  # events or messages, before the clients have a turn

# method → its arguments, what is sent to the publisher (with the arguments put in), and how long its answer may take
METHODS: dict[str, tuple[tuple[str, ...], RollCommand | Order, float]] = {
    "StartRoll": (("roll", "recipe"), RollCommand("start", "", ""), PREPARE_S),
    "EndRoll": ((), RollCommand("end", "", ""), ANSWER_S),
    "Acknowledge": ((), Order("acknowledge", "", "", ""), ANSWER_S),
    "BypassOn": (("text",), Order("bypass-on", "", "", ""), ANSWER_S),
    "BypassOff": (("text",), Order("bypass-off", "", "", ""), ANSWER_S),
    "MarkSplice": (("text",), Order("splice", "", "", ""), ANSWER_S),
    "TestReject": (("lane",), Order("test-reject", "", "", ""), ANSWER_S),
}


class OpcUaServer:
    """One line's OPC UA server.

    Args:
        describe: an event in words, where there are any.

    Raises ConfigError where the line has no [opcua] or its certificates cannot be used.
    """

    def __init__(
        self,
        line: Line,
        network: Network,
        describe: Callable[[Message], str | None] = lambda _: None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        settings = line.settings.opcua
        if settings is None:
            raise ConfigError(f"{line.path}: [opcua] is missing: where it is to be served")
        self._settings, self._describe, self._clock = settings, describe, clock_ns
        self._name, self._status_s = line.settings.name, line.settings.status_s
        folder = line.file(settings.certificates) if settings.certificates and settings.security != "none" else None
        self._identity = load_identity(folder) if folder is not None else None
        self._trust = Trust(folder)
        cameras = [camera.name for camera in line.settings.cameras]
        self.view = LineView(cameras, line.settings.status_s, clock_ns)
        self._events = Subscriber(
            network, line.events_endpoint, line.backfill_endpoint, on_status=self.view.stages.hear,
            on_progress=self.view.hear_progress, clock_ns=clock_ns,
        )  # fmt: skip
        self._asking, self._ordering = (network.client(line.control_endpoint) for _ in range(2))
        self._under_way: asyncio.Task[ua.CallMethodResult] | None = None
        self._asked_ns = self._shown_ns = -(1 << 62)
        self.last_answer = self.last_refusal = ""
        self._log = structlog.get_logger(stage="opcua")
        self.events = 0

    async def serve(self, stop: threading.Event, ready: Callable[[], object], alive: Callable[[], object]) -> None:
        """Until `stop`; raises PeerError where the endpoint cannot be served."""
        server = Server(iserver=Sessions(user_manager=self._trust))
        await self._set_up(server)
        space = Space(server, self._name, self.view.cameras)
        await space.build({name: (one[0], partial(_call, self, name)) for name, one in METHODS.items()})
        await space.show(self.view, self.last_answer, self.last_refusal)
        try:
            await server.start()
        except OSError as error:
            raise PeerError(f"{self._settings.endpoint}: cannot be served: {error.strerror or error}") from error
        try:
            ready()
            while not stop.is_set():
                await self._turn(space, alive)
        finally:
            if self._under_way is not None:
                self._under_way.cancel()
            await server.stop()

    async def _set_up(self, server: Server) -> None:
        await server.init()
        server.set_endpoint(self._settings.endpoint)
        server.set_server_name(f"linescan {self._name}")
        server.set_identity_tokens([ua.AnonymousIdentityToken])  # who it is, the channel's certificate says
        server.set_certificate_validator(self._trust.validate)
        server.iserver.max_connections = CONNECTIONS
        policy = ua.SecurityPolicyType.NoSecurity
        if self._identity is not None:
            policy = ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt
            await server.load_certificate(self._identity.certificate, "der")
            await server.load_private_key(self._identity.key, format="pem")
            await server.set_application_uri(self._identity.uri)
        server.set_security_policy([policy], permission_ruleset=Permissions())

    # ------------------------------------------------------------------------------------------ the loop

    async def _turn(self, space: Space, alive: Callable[[], object]) -> None:
        alive()
        came = self._events.take(0.0)
        for number, event in enumerate(came, 1):
            self.view.hear_event(event.message)
            await space.tell(event, self._describe(event.message) or type_name(event.message))
            self.events += 1
            if number % AT_ONCE == 0:
                alive()
                await asyncio.sleep(0)
        self._ask_for_the_roll()
        if self._clock() - self._shown_ns > SHOW_S * 1e9:
            self._shown_ns = self._clock()
            await space.show(self.view, self.last_answer, self.last_refusal)
        if not came:
            await asyncio.sleep(TURN_S)

    def _ask_for_the_roll(self) -> None:
        for received in waiting(self._asking, AT_ONCE):
            if isinstance(received.message, RollState):
                self.view.hear_roll(received.message)
        if not self.view.stale and self._clock() - self._asked_ns > self._status_s * 1e9:
            self._asked_ns = self._clock()
            self._asking.send(RollCommand("status", "", ""))

    # ------------------------------------------------------------------------------------------ methods

    async def call(self, name: str, arguments: list[str]) -> ua.CallMethodResult:
        """Asks the publisher, and answers what it says, or that the answer will be in LastAnswer or LastRefusal.

        A connection's requests are served one after the other: who waits in a method hears nothing else.
        """
        names, asked, patience_s = METHODS[name]
        given: dict[str, Any] = dict(zip(names, arguments, strict=True))
        if isinstance(asked, Order):
            asked = replace(asked, **{"text": "by OPC UA", **given})
        else:
            asked = replace(asked, **given)
        if self.view.stale:
            return self._refuse(name, ua.StatusCodes.BadNoCommunication, "the publisher is silent")
        if self._under_way is not None and not self._under_way.done():
            return self._refuse(name, ua.StatusCodes.BadInvalidState, "another method is under way")
        self._under_way = asyncio.create_task(self._ask(name, asked, patience_s))
        done, _ = await asyncio.wait({self._under_way}, timeout=QUICK_S)
        if done:
            return self._under_way.result()
        return _result(ua.StatusCodes.GoodCompletesAsynchronously, "")

    async def _ask(self, name: str, message: RollCommand | Order, patience_s: float) -> ua.CallMethodResult:
        answer = await self._answer(message, patience_s)
        if answer is None:
            return self._refuse(name, ua.StatusCodes.BadTimeout, "the publisher does not answer")
        if isinstance(answer, Refused):
            return self._refuse(name, ua.StatusCodes.BadInvalidState, answer.reason)
        text = answer.text if isinstance(answer, Done) else answer.roll
        self._log.info("method", method=name, asked=vars(message), answer=text)
        self.last_answer = f"{name}: {text}"
        return _result(ua.StatusCodes.Good, text)

    async def _answer(self, message: RollCommand | Order, patience_s: float) -> RollState | Done | Refused | None:
        self._ordering.send(message)
        until = self._clock() + int(patience_s * 1e9)
        while self._clock() < until:
            for received in waiting(self._ordering, AT_ONCE):
                if isinstance(received.message, RollState | Done | Refused):
                    return received.message
            await asyncio.sleep(TURN_S / 2)
        self._ordering.reconnect()  # nobody knows what an order does that is taken later
        return None

    def _refuse(self, name: str, code: int, reason: str) -> ua.CallMethodResult:
        self.last_refusal = f"{name}: {reason}"
        self._log.warning("method refused", method=name, reason=reason)
        return _result(code, None)


def _result(code: int, text: str | None) -> ua.CallMethodResult:
    outputs = [] if text is None else [ua.Variant(text, ua.VariantType.String)]
    return ua.CallMethodResult(StatusCode=ua.StatusCode(code), OutputArguments=outputs)


async def _call(served: OpcUaServer, name: str, _parent: ua.NodeId, *given: ua.Variant) -> ua.CallMethodResult:
    expected = len(METHODS[name][0])
    if len(given) != expected:
        wrong = ua.StatusCodes.BadArgumentsMissing if len(given) < expected else ua.StatusCodes.BadTooManyArguments
        return _result(wrong, None)
    values = [one.Value or "" for one in given]
    if not all(isinstance(value, str) for value in values):
        return _result(ua.StatusCodes.BadInvalidArgument, None)
    return await served.call(name, values)
