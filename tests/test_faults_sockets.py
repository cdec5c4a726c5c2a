"""What strangers do to a line's sockets: garbage, foreign keys, readers that do not read."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
import zmq

from linescan.codec import MAX_BYTES, encode, to_dict
from linescan.messages import Credit, Frame, Hello, Progress, RollCommand, Since, Stamp
from linescan.subscriber import Subscriber, subscribe
from linescan.transport.keys import load_keys, make_keys
from linescan.transport.zeromq import ZmqNetwork
from tests.line_oracle import Oracle, check_subscriptions
from tests.line_rig import CAMERA, ROOT, LineRig, web

STAMP = Stamp(CAMERA, 1, 0, 0)
FRAME = Frame(CAMERA, 1, "r001", 0, 1, 8, "Mono8", None, 0, 0)
WELL_FORMED = (STAMP, FRAME, Progress(CAMERA, "r001", 9, 9, b""), Since("", 0, 9), RollCommand("end", "", ""))


@pytest.fixture(scope="module")
def rig(simulated_camera: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LineRig]:
    strip = web(defects=400)  # an event every few lines
    with LineRig(tmp_path_factory.mktemp("sockets"), simulated_camera, strip=strip) as rig:
        rig.begin()
        yield rig


def garbage(chance: random.Random) -> list[list[bytes]]:
    """Messages that are none of ours, and never quite the same."""
    told: list[list[bytes]] = [[b""], [b"", b"", b"", b""], [encode(STAMP)], [encode(STAMP), encode(STAMP)]]
    told += [[chance.randbytes(chance.randrange(1, 300))] for _ in range(20)]
    told += [[encode(message)[: chance.randrange(1, 20)]] for message in WELL_FORMED]
    for message in WELL_FORMED:
        foreign = {**to_dict(message), "version": 2}
        told += [[msgpack.packb(foreign)], [msgpack.packb({**foreign, "version": None})], [encode(message) + b"\0"]]
    told += [[encode(STAMP), encode(FRAME)], [encode(FRAME), b"pixels"], [encode(STAMP), encode(FRAME), b"", b""]]
    told += [[b"\xde\xff\xff"], [msgpack.packb(["type", "frame"])], [b"\x91" * 5000]]
    told.append([bytes(MAX_BYTES + 1)])
    return told


def misplaced() -> list[list[bytes]]:
    """Messages of ours that do not belong there."""
    credit = Credit("nobody", -5, 2**62, "nothing", -1, 2**62, True)
    return [
        [encode(Since("x" * 500, -(2**62), 2**62))], [encode(credit)], [encode(Hello("nobody", "x", "worker"))],
        [encode(STAMP), encode(Progress(CAMERA, "r001", 2**60, 2**60, b""))],
        [encode(STAMP), encode(FRAME), b""], [encode(Progress("nobody", "", -1, -1, b"nothing"))],
    ]  # fmt: skip


def endpoints(rig: LineRig) -> dict[str, str]:
    line = rig.line
    return {"frames": line.frames_endpoint(CAMERA), "stages": line.stages_endpoint,
            "backfill": line.backfill_endpoint, "control": line.control_endpoint}  # fmt: skip


def test_garbage_on_every_socket(rig: LineRig) -> None:
    oracle, chance = Oracle(rig), random.Random(11)
    rig.fresh_roll()
    counted = {"acquire": rig.counter("acquire", "dropped_garbage"),
               "publisher": rig.counter("publisher", "dropped_garbage")}  # fmt: skip
    context = zmq.Context()
    try:
        for endpoint in endpoints(rig).values():
            stranger = context.socket(zmq.DEALER)
            stranger.linger = 5000
            stranger.connect(endpoint)
            for parts in garbage(chance) + misplaced():
                stranger.send_multipart(parts)
            rig.pause(0.2)
            stranger.close()
        told = len(garbage(chance))
        rig.wait(lambda: rig.counter("acquire", "dropped_garbage") - counted["acquire"] >= told, "acquire to count")
        rig.wait(
            lambda: rig.counter("publisher", "dropped_garbage") - counted["publisher"] >= 3 * told,
            "the publisher to count the garbage of three sockets",
        )
        speak_nonsense(rig, context)
    finally:
        context.destroy(linger=0)
    rig.inspect_lines(1000)
    oracle.judge(rig.finish()).check()
    assert rig.counter("acquire", "dropped_garbage") - counted["acquire"] == told
    assert rig.counter("publisher", "dropped_garbage") - counted["publisher"] == 3 * told
    check_subscriptions(rig)


def speak_nonsense(rig: LineRig, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """What ZeroMQ itself has to bear: no ZeroMQ at all, parts beyond its limit, and words to one who only speaks."""
    for endpoint in [*endpoints(rig).values(), rig.line.events_endpoint]:
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect(endpoint.removeprefix("ipc://"))
            stream.sendall(b"GET / HTTP/1.1\r\n\r\n" * 20)
        stranger = context.socket(zmq.DEALER)
        stranger.linger, stranger.sndtimeo = 0, 1000
        stranger.connect(endpoint)
        with contextlib.suppress(zmq.Again):  # one who only speaks may have hung up already
            stranger.send(bytes(17 * MAX_BYTES))
        rig.pause(0.3)
        stranger.close()
    heckler = context.socket(zmq.XSUB)
    heckler.connect(rig.line.events_endpoint)
    for noise in (b"\x01", b"\x07nothing", b"\x00event", b"x" * 1000):
        heckler.send(noise)
    rig.pause(0.2)
    heckler.close(linger=0)


def test_garbage_from_a_publisher(tmp_path: Path) -> None:
    """A subscriber takes what is good of what it hears, and counts the rest."""
    chance, network, context = random.Random(5), ZmqNetwork(), zmq.Context()
    events, backfill = (f"ipc://{tmp_path}/{name}" for name in ("events", "backfill"))
    speaker = context.socket(zmq.PUB)
    answerer = context.socket(zmq.ROUTER)
    speaker.bind(events)
    answerer.bind(backfill)
    try:
        subscriber = Subscriber(network, events, backfill, 0)
        until = time.monotonic() + 60
        while subscriber._live.counters["garbage"] < 20 or subscriber._backfill.counters["garbage"] < 20:
            assert time.monotonic() < until
            for parts in garbage(chance):
                speaker.send_multipart([b"event", *parts])
            while answerer.poll(20):
                peer = answerer.recv_multipart()[0]
                for parts in garbage(chance):
                    answerer.send_multipart([peer, *parts])
            assert subscriber.take(0.01) == []
    finally:
        context.destroy(linger=0)
        network.close()


def test_a_subscriber_that_stops_reading(rig: LineRig, tmp_path: Path) -> None:
    """More is told meanwhile than all queues hold; then it gets everything, and the line never noticed."""
    oracle = Oracle(rig)
    command = [
        sys.executable,
        "-m",
        "linescan.cli.main",
        "events",
        "--config",
        str(rig.config),
        "--since",
        "0",
        "--json",
    ]
    output = tmp_path / "events.jsonl"
    with output.open("wb") as file, subprocess.Popen(command, cwd=ROOT, stdout=file) as reader:
        try:
            rig.wait(lambda: output.stat().st_size, "it to read")
            reader.send_signal(signal.SIGSTOP)
            rig.fresh_roll()
            before = len(rig.events)
            rig.wait(lambda: len(rig.events) - before > 2600, "many events")
            roll = rig.finish()
            last = rig.events[-1].sequence
            assert last is not None
            reader.send_signal(signal.SIGCONT)
            rig.wait(lambda: output.read_bytes().count(b"\n") >= last, "it to read on")
        finally:
            reader.kill()
    told = [json.loads(line)["sequence"] for line in output.read_text().splitlines()[:last]]
    assert told == list(range(1, last + 1))
    oracle.judge(roll).check()


def test_a_subscriber_that_forgets_to_take(rig: LineRig) -> None:
    """The process runs, its queue is full: nothing breaks, and it gets everything later."""
    taken: list[int] = []
    with subscribe(rig.config, 0) as lazy:
        rig.wait(lambda: lazy.take(0.05), "its first event")
        taken = [0]
        before = len(rig.events)
        rig.wait(lambda: len(rig.events) - before > 1500, "many events")
        rig.pause(6)  # longer than connections live that answer nothing
        goal = rig.events[-1].sequence
        assert goal is not None
        rig.wait(lambda: taken.extend(event.sequence for event in lazy.take(0.05)) or taken[-1] >= goal, "all of them")
    assert taken[1:] == list(range(taken[1], taken[-1] + 1))


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def test_wrong_keys(simulated_camera: Path, tmp_path: Path) -> None:
    """Neither who takes another server for ours nor who is not on the list hears or changes anything."""
    for name in ("keys", "strangers"):
        make_keys(tmp_path / name)
    names = ("stages", "events", "backfill", "control")
    addresses = [f"tcp://127.0.0.1:{port}" for port in free_ports(len(names) + 1)]
    transport: dict[str, object] = {"frames": {CAMERA: addresses.pop()}, "keys": "keys"}
    transport.update(zip(names, addresses, strict=True))
    with LineRig(tmp_path, simulated_camera, transport=transport) as rig:
        rig.begin()
        ours, theirs = load_keys(tmp_path / "keys"), load_keys(tmp_path / "strangers")
        unknown = dataclasses.replace(ours, client_public=theirs.client_public, client_secret=theirs.client_secret)
        mistaken = dataclasses.replace(ours, server_public=theirs.server_public)
        statuses = dict.fromkeys(("known", "unknown", "mistaken", "open"), 0)
        networks = []

        def listen(name: str, network: ZmqNetwork) -> Subscriber:
            def heard(_status: object) -> None:
                statuses[name] += 1

            networks.append(network)
            return Subscriber(network, rig.line.events_endpoint, rig.line.backfill_endpoint, 0, on_status=heard)

        subscribers = {
            name: listen(name, ZmqNetwork(keys))
            for name, keys in (("known", ours), ("unknown", unknown), ("mistaken", mistaken), ("open", None))
        }
        for network in networks[1:]:
            network.client(rig.line.control_endpoint).send(RollCommand("end", "", ""))
            network.client(rig.line.frames_endpoint(CAMERA)).send(Hello(CAMERA, "x", "worker"))
        events: dict[str, int] = dict.fromkeys(statuses, 0)
        try:
            until = time.monotonic() + 3
            while time.monotonic() < until or statuses["known"] < 10 or not events["known"]:
                assert time.monotonic() < until + 60
                rig.pump()
                for name, subscriber in subscribers.items():
                    events[name] += len(subscriber.take())
        finally:
            for network in networks:
                network.close()
        assert statuses == {"known": statuses["known"], "unknown": 0, "mistaken": 0, "open": 0}
        assert events == {"known": events["known"], "unknown": 0, "mistaken": 0, "open": 0}
        assert not rig.counter("acquire", "hellos_refused")
        Oracle(rig).judge(rig.finish()).check()
        check_subscriptions(rig)
