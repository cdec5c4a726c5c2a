"""What OPC UA clients see of a line: one object of variables, methods and the types of its events.

    Objects/NAME/VisionStateMachine/CurrentState                         state names of OPC 40100-1 (machine vision)
    Objects/NAME/VisionStateMachine/AutomaticModeStateMachine/CurrentState
    Objects/NAME/Faults, LastAnswer, LastRefusal (of methods)
    Objects/NAME/Roll/Name, Recipe, Regions, Gaps, Rejects, RejectsLate, CountsFromRollStart
    Objects/NAME/Cameras/CAMERA/InspectedUpTo, LinesScanned, LinesInGaps, AcquireState, WorkerState

Events come from the Server object, with NAME as their source. Values that are old carry UncertainLastUsableValue.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields
from datetime import datetime, timezone
from typing import Any

from asyncua import Node, Server, ua
from asyncua.server.event_generator import EventGenerator

from linescan.messages import Gap, Message, Notice, Region, Reject, RollEnd, RollStart
from linescan.stages.line_view import LineView
from linescan.subscriber import Event

NAMESPACE = "urn:linescan"
STATES = "VisionStateMachine", "AutomaticModeStateMachine"
OLD = ua.StatusCode(ua.StatusCodes.UncertainLastUsableValue)
NOT_ACTIVE = ua.StatusCode(ua.StatusCodes.BadStateNotActive)
GOOD = ua.StatusCode(ua.StatusCodes.Good)

Text, Whole, Truth = ua.VariantType.String, ua.VariantType.Int64, ua.VariantType.Boolean
Value = tuple[Any, ua.StatusCode]

KINDS: dict[type[Message], str] = {
    Region: "RegionEventType", Gap: "GapEventType", Reject: "RejectEventType", Notice: "NoticeEventType",
    RollStart: "RollStartEventType", RollEnd: "RollEndEventType",
}  # fmt: skip
VARIANTS = {str: Text, int: Whole, bool: Truth, float: ua.VariantType.Double}
RENAMED = {"severity": "DefectSeverity"}  # an event's own Severity is 1…1000
URGENT, SERIOUS, ORDINARY, QUIET = 900, 700, 500, 100

Method = Callable[..., Awaitable[ua.CallMethodResult]]


class Space:
    """The nodes of one line in a server; `build` first."""

    def __init__(self, server: Server, name: str, cameras: Sequence[str]) -> None:
        self._server, self._name, self._cameras = server, name, tuple(cameras)
        self._nodes: dict[str, tuple[Node, ua.VariantType]] = {}  # by path
        self._shown: dict[str, Value] = {}
        self._generators: dict[type[Message], EventGenerator] = {}
        self._index = 0
        self.line: Node

    async def build(self, methods: dict[str, tuple[Sequence[str], Method]]) -> None:
        """Makes all nodes; `methods` are names with those of their arguments, all texts."""
        self._index = await self._server.register_namespace(NAMESPACE)
        self.line = await self._server.nodes.objects.add_object(self._index, self._name)
        machine = await self.line.add_object(self._index, STATES[0])
        automatic = await machine.add_object(self._index, STATES[1])
        await self._variable(machine, STATES[0], "CurrentState", ua.VariantType.LocalizedText)
        await self._variable(automatic, STATES[1], "CurrentState", ua.VariantType.LocalizedText)
        await self._variable(self.line, "", "Faults", Text, array=True)
        await self._variable(self.line, "", "LastAnswer", Text)
        await self._variable(self.line, "", "LastRefusal", Text)
        roll = await self.line.add_object(self._index, "Roll")
        for name, kind in (("Name", Text), ("Recipe", Text), ("CountsFromRollStart", Truth)):
            await self._variable(roll, "Roll", name, kind)
        for name in ("Regions", "Gaps", "Rejects", "RejectsLate"):
            await self._variable(roll, "Roll", name, Whole)
        cameras = await self.line.add_object(self._index, "Cameras")
        for camera in self._cameras:
            node = await cameras.add_object(self._index, camera)
            for name in ("InspectedUpTo", "LinesScanned", "LinesInGaps"):
                await self._variable(node, f"Cameras/{camera}", name, Whole)
            for name in ("AcquireState", "WorkerState"):
                await self._variable(node, f"Cameras/{camera}", name, Text)
        for name, (arguments, method) in methods.items():
            inputs = [_argument(one) for one in arguments]
            await self.line.add_method(self._index, name, method, inputs, [_argument("Text")])
        for message in KINDS:
            await self._event_type(message)

    async def show(self, view: LineView, answer: str, refusal: str) -> None:
        """Writes what has changed."""
        for path, value in _values(view, answer, refusal).items():
            if self._shown.get(path) != value:
                self._shown[path] = value
                node, kind = self._nodes[path]
                now = datetime.now(timezone.utc)
                shown = ua.DataValue(ua.Variant(value[0], kind), value[1], SourceTimestamp=now, ServerTimestamp=now)
                await self._server.write_attribute_value(node.nodeid, shown)

    async def tell(self, event: Event, text: str) -> None:
        """Triggers the event, where its kind is one that is told: of a region only its close."""
        message = event.message
        generator = self._generators.get(type(message))
        if generator is None or (isinstance(message, Region) and message.phase != "close"):
            return
        for name, value in _fields(message).items():
            setattr(generator.event, name, value)
        generator.event.Sequence = -1 if event.sequence is None else event.sequence
        generator.event.Run, generator.event.Replayed = event.run, event.replayed
        generator.event.Severity = _severity(message)
        await generator.trigger(datetime.fromtimestamp(event.utc_ns / 1e9, timezone.utc), text)

    async def _variable(self, parent: Node, folder: str, name: str, kind: ua.VariantType, array: bool = False) -> None:
        first = [] if array else ua.get_default_value(kind)
        node = await parent.add_variable(self._index, name, first, kind)
        self._nodes[f"{folder}/{name}" if folder else name] = (node, kind)

    async def _event_type(self, kind: type[Message]) -> None:
        properties = [(_name(one), variant) for one, variant in _variants(kind).items()]
        properties += [("Sequence", Whole), ("Run", Text), ("Replayed", Truth)]
        made = await self._server.create_custom_event_type(self._index, KINDS[kind], properties=properties)
        generator = await self._server.get_event_generator(made, ua.ObjectIds.Server)
        generator.event.SourceNode, generator.event.SourceName = self.line.nodeid, self._name
        self._generators[kind] = generator


def _values(view: LineView, answer: str, refusal: str) -> dict[str, Value]:
    """Every variable by its path, and how good its value is."""
    level, mode = view.state.value
    quality = OLD if view.stale else GOOD
    roll, counts = view.roll, view.roll.counts
    values: dict[str, Value] = {
        f"{STATES[0]}/CurrentState": (ua.LocalizedText(level), GOOD),
        f"{STATES[1]}/CurrentState": (ua.LocalizedText(mode), GOOD if mode else NOT_ACTIVE),
        "Faults": (view.faults, GOOD),
        "LastAnswer": (answer, GOOD),
        "LastRefusal": (refusal, GOOD),
        "Roll/Name": (roll.name, quality),
        "Roll/Recipe": (roll.recipe, quality),
        "Roll/CountsFromRollStart": (view.whole, quality),
    }
    for name, count in (
        ("Regions", "regions"),
        ("Gaps", "gaps"),
        ("Rejects", "rejects"),
        ("RejectsLate", "rejects_late"),
    ):
        values[f"Roll/{name}"] = (counts[count], quality)
    for camera, one in roll.cameras.items():
        folder = f"Cameras/{camera}"
        values[f"{folder}/InspectedUpTo"] = (one.inspected_up_to, quality)
        values[f"{folder}/LinesScanned"] = (one.lines_scanned, quality)
        values[f"{folder}/LinesInGaps"] = (one.lines_in_gaps, quality)
        for name, stage in (("AcquireState", "acquire"), ("WorkerState", "worker")):
            status = view.stages.last(f"{stage}@{camera}")
            old = status is None or f"{stage}@{camera}" in view.stages.silent
            values[f"{folder}/{name}"] = (status.state if status else "", OLD if old else quality)
    return values


def _variants(kind: type[Message]) -> dict[str, ua.VariantType]:
    """The fields of a message as OPC UA types; settings, which nest, become JSON."""
    hints = typing.get_type_hints(kind)
    return {one.name: _variant(hints[one.name]) for one in fields(kind)}  # type: ignore[arg-type]


def _variant(hint: Any) -> ua.VariantType:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return _variant(next(one for one in typing.get_args(hint) if one is not type(None)))
    origin = typing.get_origin(hint)
    if origin is tuple:
        return _variant(typing.get_args(hint)[0])
    return Text if origin in (typing.Literal, dict) else VARIANTS[hint]


def _fields(message: Message) -> dict[str, Any]:
    variants = _variants(type(message))
    return {_name(one): _valued(getattr(message, one), variant) for one, variant in variants.items()}


def _valued(value: Any, kind: ua.VariantType) -> ua.Variant:
    if value is None:
        return ua.Variant(None, ua.VariantType.Null)
    if isinstance(value, tuple):
        return ua.Variant(list(value), kind)
    return ua.Variant(json.dumps(value) if isinstance(value, dict) else value, kind)


def _name(field: str) -> str:
    """first_line → FirstLine."""
    return RENAMED.get(field) or "".join(part.capitalize() for part in field.split("_"))


def _severity(message: Message) -> int:
    if isinstance(message, Reject):
        return ORDINARY if message.in_time else URGENT
    if isinstance(message, Notice):
        return SERIOUS if message.kind in ("alarm", "untrusted", "gate-unconfirmed", "bypass-on") else QUIET
    return SERIOUS if isinstance(message, Gap) else ORDINARY if isinstance(message, Region) else QUIET


def _argument(name: str) -> ua.Argument:
    return ua.Argument(Name=name, DataType=ua.NodeId(ua.ObjectIds.String), ValueRank=-1)
