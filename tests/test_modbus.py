"""The Modbus TCP driver against the reference PLC in another process, and every fault between the two."""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from linescan.line import Plc
from linescan.plc import registers as at
from linescan.plc.link import COUNTS, Flags, GateOrder, PlcLink
from linescan.plc.modbus import ModbusLink
from tests.line_rig import simctl
from tests.plc_rig import (
    PlcProcess,
    Publisher,
    encoder,
    free_port,
    plc_process,
    publisher,
    untouched,
    wait_until,
)

FAR = 1_000_000  # counts that the web does not reach


def order(sequence: int, first: int, end: int, outputs: int = 1, **changes: Any) -> GateOrder:
    return GateOrder(sequence, outputs, first % COUNTS, end % COUNTS, **changes)


def windows(plc: PlcProcess) -> list[tuple[int, int]]:
    return sorted((first, end) for _, first, end in plc.status()["table"])


def faults(line: Publisher) -> tuple[str, ...]:
    return line.link.view().faults


# ------------------------------------------------------------------------------------------------ as it should be


def test_nothing_passes_before_all_is_well(tmp_path: Path) -> None:
    with plc_process(tmp_path) as plc:
        assert plc.why() == "no-session"
        with publisher(plc.port) as line:
            link: PlcLink = line.link
            line.confirms = False
            wait_until(lambda: link.view().connected)
            assert plc.why() == "not-ready"
            link.reach([FAR])
            time.sleep(0.1)
            assert plc.why() == "not-ready"
            link.show(Flags(ready=True, session=link.view().session ^ 1))
            time.sleep(0.1)
            assert plc.why() == "not-ready"
            line.confirms = True
            wait_until(lambda: plc.why() == "inspected")
            assert plc.why(1) == "limit"
            view = link.view()
            assert (view.session, view.faults, view.enabled) == (plc.status()["session"], (), True)
        wait_until(lambda: plc.why() == "not-ready")  # closed in order: no need to wait for the watchdog


def test_the_gate_rejects_over_each_window_and_passes_between(tmp_path: Path) -> None:
    """On a web that stops, runs back and changes its speed tenfold, over the counter's wrap."""
    base = COUNTS - 1500
    script = "1:1500,0.3:0,0.4:-500,0.8:2000,1:200,1.2:2000"
    with (
        plc_process(tmp_path, "--start", str(base), "--script", script, "--outputs", "2") as plc,
        publisher(plc.port) as line,
    ):
        spans = [(base + first, base + first + 300) for first in range(600, 4000, 700)]
        for sequence, (first, end) in enumerate(spans, 1):
            line.link.order(order(sequence, first, end, outputs=2))
        line.link.reach([(base + FAR) % COUNTS] * 2)

        def moved() -> int:
            return (int(plc.status()["count"]) - base) % COUNTS

        wait_until(lambda: 4100 < moved() < FAR, 30)
        changes = [change for change in plc.changes() if change.output == 1]
        assert not [change for change in plc.changes() if change.output == 0 and change.why == "window"]
    passed = [change for change in changes if change.passes]
    for change in passed:
        count = base + (change.count - base) % COUNTS
        assert not any(first <= count < end for first, end in spans), change
    # each window was entered, and the gate was open there
    entered = [base + (change.count - base) % COUNTS for change in changes if change.why == "window"]
    assert all(any(first <= count < end for count in entered) for first, end in spans)
    assert line.link.view().gates is not None


def test_what_the_plc_asks_for_arrives(tmp_path: Path) -> None:
    with plc_process(tmp_path, "--start", "5000", "--counts-per-s", "1000") as plc, publisher(plc.port) as line:
        view = wait_until(lambda: line.link.view() if line.link.view().connected else None)
        assert (view.acknowledge, view.roll_start, view.roll_end, view.splice) == (0, 0, 0, 0)
        assert view.sync == (0, 0)
        for command in ("ack", "ack", "splice", "roll-end", "roll-start R-2026-11", "sync"):
            plc.send(command)
        view = wait_until(lambda: line.link.view() if line.link.view().sync != (0, 0) else None)
        assert (view.acknowledge, view.roll_start, view.roll_end, view.splice) == (2, 1, 1, 1)
        assert view.roll_id == "R-2026-11"
        number, count = view.sync
        assert number == 1
        assert 5000 < count <= view.position
        before = line.link.view()
        later = wait_until(lambda: line.link.view() if line.link.view().heard_ns > before.heard_ns + 10**8 else None)
        speed = (later.position - before.position) / (later.position_ns - before.position_ns) * 1e9
        assert 500 < speed < 2000
        plc.send("enable 0")
        wait_until(lambda: not line.link.view().enabled)
        assert plc.why() == "disabled"


def test_openings_of_gates_are_confirmed(tmp_path: Path) -> None:
    with plc_process(tmp_path, "--counts-per-s", "1000") as plc, publisher(plc.port) as line:
        line.link.reach([FAR])
        wait_until(lambda: plc.why() == "inspected")
        before = line.link.view().gates
        first = line.link.view().position + 500
        line.link.order(order(1, first, first + 300))
        wait_until(lambda: line.link.view().gates != before)
        view = line.link.view()
        assert view.gates[0] == before[0] + 1
        assert first <= view.opened_at[0] < first + 300
        plc.send("gate-stuck 1")
        first = line.link.view().position + 500
        line.link.order(order(2, first, first + 300))
        wait_until(lambda: plc.why() == "window")
        wait_until(lambda: plc.why() == "inspected")
        assert line.link.view().gates[0] == before[0] + 1


@pytest.mark.parametrize("byte_order", ["big", "little"])
@pytest.mark.parametrize("word_order", ["high-first", "low-first"])
def test_any_order_of_words_and_bytes(tmp_path: Path, word_order: str, byte_order: str) -> None:
    base, device = 3000, 7
    orders = ("--word-order", word_order, "--byte-order", byte_order)
    place = ("--base-register", str(base), "--device-id", str(device))
    settings = {"word_order": word_order, "byte_order": byte_order, "base_register": base, "device_id": device}
    with plc_process(tmp_path, *orders, *place, "--start", "70000") as plc, publisher(plc.port, **settings) as line:
        line.link.order(order(258, 0x0102_0304, 0x0506_0708, outputs=1))
        line.link.reach([0x0A0B_0C0D])
        wait_until(lambda: plc.status()["limits"][0] == 0x0A0B_0C0D)
        assert windows(plc) == [(0x0102_0304, 0x0506_0708)]
        assert line.link.view().position == 70000
        plc.send("roll-start AB3")
        wait_until(lambda: line.link.view().roll_id == "AB3")


# ------------------------------------------------------------------------------------------------ heartbeats


def test_without_the_publishers_beat_the_plc_rejects(tmp_path: Path) -> None:
    with plc_process(tmp_path, "--heartbeat-s", "0.3") as plc, publisher(plc.port) as line:
        line.link.reach([FAR])
        wait_until(lambda: plc.why() == "inspected")
        line.beats = False  # its loop hangs; the link's own thread goes on
        wait_until(lambda: plc.why() == "heartbeat", 5)
        line.link.order(order(1, 10, 20))
        wait_until(lambda: line.link.delivered == 1)
        assert plc.why() == "heartbeat"
        line.beats = True
        wait_until(lambda: plc.why() == "inspected", 5)


def test_a_program_that_stands_behind_a_server_that_answers(tmp_path: Path) -> None:
    with plc_process(tmp_path) as plc, publisher(plc.port, timeout_s=0.3) as line:
        line.link.reach([FAR])
        wait_until(lambda: plc.why() == "inspected")
        session = line.link.view().session
        plc.send("freeze")
        view = wait_until(lambda: line.link.view() if faults(line) else None)
        assert view.faults == ("plc-frozen",)
        assert not view.connected
        assert plc.why() == "stopped"  # its outputs fell off
        line.link.order(order(1, 10, 20))
        plc.send("thaw")
        wait_until(lambda: line.link.view().connected and not faults(line))
        wait_until(lambda: plc.why() == "inspected")
        assert line.link.view().session == session
        assert windows(plc) == [(10, 20)]


# ------------------------------------------------------------------------------------------------ the PLC goes away


def test_a_plc_that_is_not_there_blocks_nobody(tmp_path: Path) -> None:
    link = ModbusLink(Plc(host="127.0.0.1", port=free_port()))
    try:
        began = time.monotonic()
        for sequence in range(1, 2001):
            link.order(order(sequence, 10 * sequence, 10 * sequence + 5))
            link.reach([10 * sequence])
            link.beat()
            link.show(Flags(running=bool(sequence % 2)))
            link.view()
        assert time.monotonic() - began < 2.0
        view = wait_until(lambda: link.view() if "cannot be reached" in link.view().reason else None)
        assert view.faults == ("plc-unreachable",)
        assert (link.pending, link.delivered, view.connected, view.session) == (2000, 0, False, 0)
    finally:
        began = time.monotonic()
        link.close()
        assert time.monotonic() - began < 3.0


def test_a_frozen_server_is_noticed_and_gets_everything_later(tmp_path: Path) -> None:
    """It still looks connected: the kernel takes what is sent, and nobody answers."""
    with plc_process(tmp_path, "--heartbeat-s", "0.3") as plc, publisher(plc.port, timeout_s=0.3) as line:
        line.link.reach([FAR])
        wait_until(lambda: plc.why() == "inspected")
        session = line.link.view().session
        plc.signal(signal.SIGSTOP)
        wait_until(lambda: faults(line) == ("plc-unreachable",), 5)
        assert not line.link.view().connected
        began = time.monotonic()
        for sequence in range(1, 201):
            line.link.order(order(sequence, 100 * sequence, 100 * sequence + 50))
        assert time.monotonic() - began < 0.5
        time.sleep(1.0)
        assert (line.link.pending, line.link.delivered) == (200, 0)
        plc.signal(signal.SIGCONT)
        wait_until(lambda: line.link.delivered == 200)
        wait_until(lambda: plc.status()["last_sequence"] == 200)
        assert windows(plc) == [(100 * n, 100 * n + 50) for n in range(1, 201)]
        assert line.link.view().session == session
        wait_until(lambda: plc.why() == "inspected")


def test_close_does_not_wait_for_a_frozen_server(tmp_path: Path) -> None:
    with plc_process(tmp_path) as plc:
        line = Publisher(plc.port, timeout_s=0.3)
        try:
            wait_until(lambda: line.link.view().connected)
            plc.signal(signal.SIGSTOP)
        finally:
            began = time.monotonic()
            line.close()
        assert time.monotonic() - began < 3.0
        view = line.link.view()
        assert (view.connected, view.faults, view.reason) == (False, ("plc-unreachable",), "the link is closed")


def test_a_restarted_plc_is_given_again_what_it_lost(tmp_path: Path) -> None:
    with plc_process(tmp_path) as plc, publisher(plc.port) as line:
        for sequence in range(1, 151):
            line.link.order(order(sequence, 100 * sequence, 100 * sequence + 50))
        line.link.reach([5_000])
        wait_until(lambda: plc.why() == "inspected" and line.link.delivered == 150)
        plc.send("ack")
        plc.send("roll-start A")
        wait_until(lambda: line.link.view().roll_start == 1)
        line.link.forget(range(1, 51))
        before = line.link.view()
        line.confirms = False
        plc.kill()
        wait_until(lambda: faults(line) == ("plc-unreachable",))
        line.link.order(order(151, 50_000, 50_050))
        line.link.reach([60_000])
        plc.start()
        wait_until(lambda: line.link.view().connected)
        assert line.link.view().session not in (0, before.session)
        wait_until(lambda: plc.status()["limits"][0] == 60_000)
        expected = [(100 * n, 100 * n + 50) for n in range(51, 151)] + [(50_000, 50_050)]
        assert windows(plc) == expected
        assert plc.why() == "not-ready"  # where its counter stands now has to be looked at first
        line.confirms = True
        wait_until(lambda: plc.why() == "inspected")
        view = line.link.view()
        assert (view.acknowledge, view.roll_start) == (before.acknowledge, before.roll_start)
        assert (line.link.delivered, line.link.pending) == (151, 0)
        plc.send("ack")
        wait_until(lambda: line.link.view().acknowledge == before.acknowledge + 1)


def test_a_restart_between_two_looks_is_seen(tmp_path: Path) -> None:
    """The PLC's program starts anew while the link is idle for a cycle: only its echo of the session says so."""
    with plc_process(tmp_path) as plc, publisher(plc.port, cycle_s=0.5) as line:
        line.link.order(order(1, 100, 200))
        line.link.reach([50])
        wait_until(lambda: plc.why() == "inspected")
        before = line.link.view().session
        plc.kill()
        plc.start()
        wait_until(lambda: line.link.view().session not in (0, before))
        wait_until(lambda: plc.why() == "inspected")
        assert windows(plc) == [(100, 200)]


def test_a_restarted_linescan_begins_a_session_of_its_own(tmp_path: Path) -> None:
    with plc_process(tmp_path) as plc:
        with publisher(plc.port) as line:
            line.link.order(order(1, 100, 200))
            line.link.reach([FAR])
            wait_until(lambda: plc.why() == "inspected")
            first = line.link.view().session
            plc.send("ack")
        with publisher(plc.port) as line:
            wait_until(lambda: line.link.view().connected)
            assert line.link.view().session != first
            assert line.link.view().acknowledge == 0  # pressed before, and for somebody else
            wait_until(lambda: plc.why() == "limit")  # the limit of the session before is gone
            line.link.order(order(1, 100, 200))  # what it does not know to be delivered comes again
            line.link.order(order(2, 300, 400))
            line.link.reach([FAR])
            wait_until(lambda: plc.why() == "inspected")
            assert windows(plc) == [(100, 200), (300, 400)]


# ------------------------------------------------------------------------------------------------ lost answers


@contextmanager
def proxy(port: int, swallow: Callable[[bytes], bool]) -> Iterator[int]:
    """Passes requests on. Where `swallow` says so, the PLC obeys and its answer is lost, with the connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(near: socket.socket) -> None:
        with near, socket.create_connection(("127.0.0.1", port)) as far, suppress(OSError):
            while request := near.recv(4096):
                far.sendall(request)
                answer = far.recv(4096)
                if swallow(request):
                    return
                near.sendall(answer)

    def accept() -> None:
        with suppress(OSError):
            while True:
                serve(listener.accept()[0])

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def written(request: bytes) -> int | None:
    """The first register of a write request."""
    return int.from_bytes(request[8:10], "big") if request[7] == 16 else None


@pytest.mark.parametrize("address", [at.FIFO, at.HEAD, at.LIMITS])
def test_a_write_whose_answer_is_lost_is_repeated_and_counts_once(tmp_path: Path, address: int) -> None:
    losses = 3
    lost: list[bytes] = []

    def swallow(request: bytes) -> bool:
        if written(request) == address and len(lost) < losses:
            lost.append(request)
            return True
        return False

    with plc_process(tmp_path) as plc, proxy(plc.port, swallow) as port, publisher(port) as line:
        for sequence in range(1, 41):
            line.link.order(order(sequence, 100 * sequence, 100 * sequence + 50))
            line.link.reach([100 * sequence])
            time.sleep(0.002)
        wait_until(lambda: line.link.pending == 0)
        wait_until(lambda: plc.status()["limits"][0] == 4000)
        assert len(lost) == losses
        status = plc.status()
        assert windows(plc) == [(100 * n, 100 * n + 50) for n in range(1, 41)]
        assert status["tail"] == status["head"] == line.link.delivered == 40
        assert status["repeated"] == 0


def test_noise_instead_of_answers(tmp_path: Path) -> None:
    noise = [
        b"\x00" * 40,
        b"\xff" * 300,
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        bytes(range(256)),
        b"\x00\x01\x00\x00\x00\x02\x01",
    ]
    listener = socket.create_server(("127.0.0.1", 0))
    heard: list[bytes] = []

    def serve() -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                with near, suppress(OSError):
                    heard.append(near.recv(4096))
                    near.sendall(noise[len(heard) % len(noise)])

    thread = threading.Thread(target=serve)
    thread.start()
    link = ModbusLink(Plc(host="127.0.0.1", port=listener.getsockname()[1], timeout_s=0.05))
    try:
        wait_until(lambda: len(heard) > len(noise))
        assert link.view().faults == ("plc-unreachable",)
        assert link.view().reason != "the link is closed"  # the link's thread lives
        assert all(request[7] == 3 for request in heard if request)  # and wrote nothing
    finally:
        link.close()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


# ------------------------------------------------------------------------------------------------ a wrong map


def test_another_map_is_refused_without_a_word(tmp_path: Path) -> None:
    with plc_process(tmp_path, "--map-version", "2") as plc, publisher(plc.port) as line:
        line.link.order(order(1, 10, 20))
        line.link.reach([FAR])
        view = wait_until(lambda: line.link.view() if faults(line) == ("plc-registers",) else None)
        assert "map version 1 expected" in view.reason
        time.sleep(0.3)
        assert untouched(plc)
        assert (line.link.pending, line.link.delivered) == (1, 0)
        assert plc.why() == "no-session"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"base_register": 500}, "Modbus exception 2"),
        ({"word_order": "low-first"}, "0x03040102 in word order low-first"),
        ({"byte_order": "little"}, "0x4c50"),
    ],
)
def test_settings_that_do_not_fit_the_plc(tmp_path: Path, settings: dict[str, Any], says: str) -> None:
    with plc_process(tmp_path) as plc, publisher(plc.port, **settings) as line:
        view = wait_until(lambda: line.link.view() if faults(line) == ("plc-registers",) else None)
        assert says in view.reason
        time.sleep(0.2)
        assert untouched(plc)
        assert plc.why() == "no-session"


# ------------------------------------------------------------------------------------------------ the FIFO


def test_a_full_fifo_stalls_the_limits_and_says_so(tmp_path: Path) -> None:
    with plc_process(tmp_path, "--depth", "8", "--table", "4") as plc, publisher(plc.port, timeout_s=0.2) as line:
        line.link.reach([500])
        wait_until(lambda: plc.why() == "inspected")
        for sequence in range(1, 31):
            line.link.order(order(sequence, 1000 * sequence, 1000 * sequence + 50))
        line.link.reach([FAR])
        wait_until(lambda: "plc-fifo-full" in faults(line))
        assert "orders wait" in line.link.view().reason
        status = plc.status()
        assert len(status["table"]) == 4
        assert status["head"] - status["tail"] == 8
        assert status["limits"][0] == 500
        assert status["status"] >> at.STATUS_BITS.index("overrun") & 1
        assert (line.link.delivered, line.link.pending) == (12, 18)
        plc.send("jump 1500")  # beyond what was told: nothing passes
        wait_until(lambda: plc.why() == "limit")
        plc.send("jump 100")
        plc.send("table 64")
        wait_until(lambda: plc.status()["limits"][0] == FAR)
        wait_until(lambda: not faults(line))
        status = plc.status()
        assert status["status"] >> at.STATUS_BITS.index("overrun") & 1 == 0
        assert [first for first, _ in windows(plc)] == [1000 * n for n in range(1, 31)]


def test_an_entry_that_the_plc_cannot_read_is_given_again(tmp_path: Path) -> None:
    """Somebody else writes into the FIFO; the session that this breaks is replaced by a new one."""
    with plc_process(tmp_path) as plc, publisher(plc.port, cycle_s=0.1) as line:
        line.link.order(order(1, 100, 200))
        line.link.reach([50])
        wait_until(lambda: plc.why() == "inspected")
        session = line.link.view().session
        client = plc.client()
        client.write_registers(at.HEAD, [2])  # an entry that nobody wrote
        client.close()
        wait_until(lambda: line.link.view().session not in (0, session))
        wait_until(lambda: plc.why() == "inspected")
        assert windows(plc) == [(100, 200)]
        assert not plc.status()["refused"]


def test_torn_values_are_not_taken(tmp_path: Path) -> None:
    with plc_process(tmp_path, "--start", "70000") as plc, publisher(plc.port) as line:
        line.link.reach([FAR])
        wait_until(lambda: plc.why() == "inspected")
        plc.send("tear 1")
        before = line.link.view()
        plc.send("jump 90000")
        wait_until(lambda: line.link.view().heard_ns > before.heard_ns + 10**8)
        assert line.link.view().position == 70000
        assert line.link.view().position_ns <= before.heard_ns + 10**8
        plc.send("tear 0")
        wait_until(lambda: line.link.view().position == 90000)


# ------------------------------------------------------------------------------------------------ amount and speed


def test_ten_thousand_orders_wait_without_slowing(tmp_path: Path) -> None:
    with plc_process(tmp_path) as plc, publisher(plc.port) as line:
        wait_until(lambda: line.link.view().connected)
        plc.signal(signal.SIGSTOP)
        wait_until(lambda: "plc-unreachable" in faults(line), 5)
        costs = []
        for sequence in range(1, 10_001):
            began = time.perf_counter()
            line.link.order(order(sequence, FAR + 10 * sequence, FAR + 10 * sequence + 10))
            line.link.reach([FAR + 10 * sequence])
            costs.append(time.perf_counter() - began)
        early, late = statistics.median(costs[:2000]), statistics.median(costs[-2000:])
        assert late < 5 * early + 1e-5
        plc.signal(signal.SIGCONT)
        began = time.monotonic()
        wait_until(lambda: line.link.delivered == 10_000, 60)
        print(f"\n10,000 orders in {time.monotonic() - began:.1f} s; {early * 1e6:.1f} then {late * 1e6:.1f} µs a call")
        wait_until(lambda: plc.status()["limits"][0] == FAR + 100_000)
        assert windows(plc) == [(FAR + 10, FAR + 100_010)]  # each adjoined the one before
        assert plc.status()["repeated"] == 0


def test_from_told_to_register(tmp_path: Path) -> None:
    """Prints the distribution; how fast it is in absolute terms is for docs/performance.md."""
    with plc_process(tmp_path) as plc, publisher(plc.port) as line:
        line.link.reach([FAR])
        wait_until(lambda: plc.why() == "inspected")
        took_ms = []
        for sequence in range(1, 201):
            began = time.perf_counter()
            line.link.order(order(sequence, FAR + sequence * 10, FAR + sequence * 10 + 10))
            while line.link.delivered < sequence:
                time.sleep(0.0002)
            took_ms.append(1e3 * (time.perf_counter() - began))
            time.sleep(0.005)
        p50, p99 = statistics.median(took_ms), statistics.quantiles(took_ms, n=100)[98]
        print(f"\ntold to register: p50 {p50:.2f} ms, p99 {p99:.2f} ms, most {max(took_ms):.2f} ms")
        assert p50 < 100


# ------------------------------------------------------------------------------------------------ one encoder


ACQUIRE = """
import sys, harvesters.core
harvester = harvesters.core.Harvester()
harvester.add_file(sys.argv[1])
harvester.update()
camera = harvester.create({"serial_number": "SIM0001"})
nodes = camera.remote_device.node_map
nodes.Width.value, nodes.Height.value, nodes.AcquisitionLineRate.value = 256, 64, 4000
camera.start()
sys.stdin.read()
camera.destroy()
harvester.reset()
"""


def test_the_plc_counts_with_the_simulated_camera(tmp_path: Path, simulated_camera: Path) -> None:
    """Over a change of speed, a stop and the counter's wrap, the PLC counts what the camera latches."""
    simulator = simctl.Simulator(tmp_path)
    simulator.configure(both={"encoder_start": COUNTS - 8000, "encoder_counts_per_line": 10})
    web = encoder.Simulator(tmp_path, "SIM0001")
    assert web.count(time.monotonic_ns()) == COUNTS - 8000
    with plc_process(tmp_path, "--simulator", str(tmp_path / "SIM0001")) as plc:
        camera = subprocess.Popen(
            [sys.executable, "-c", ACQUIRE, str(simulated_camera)],
            stdin=subprocess.PIPE,
            env={**os.environ, **simulator.environment()},
        )
        try:
            for rate in (4000, 1000):
                wait_until(lambda: web.count(time.monotonic_ns()) != COUNTS - 8000)
                if rate != 4000:
                    simulator.send("SIM0001", f"rate {rate}")
                begins = time.monotonic_ns()
                entries = wait_until(
                    lambda since=begins: [e for e in simulator.log("SIM0001") if e.monotonic_ns > since][4:]
                )
                for entry in entries:
                    assert abs(web.count(entry.monotonic_ns) % COUNTS - entry.encoder_count) <= 1
                before, status, after = time.monotonic_ns(), plc.status(), time.monotonic_ns()
                late_ns = 10**9  # of a scan on a busy machine
                assert web.count(before - late_ns) <= status["count"] + COUNTS * (status["count"] < COUNTS // 2)
                assert status["count"] + COUNTS * (status["count"] < COUNTS // 2) <= web.count(after)
            simulator.send("SIM0001", "stop")
            last = wait_until(lambda: standing(simulator))
            wait_until(lambda: plc.status()["count"] == (last.encoder_count + 10 * last.lines) % COUNTS)
        finally:
            camera.communicate()


def standing(simulator: Any) -> Any:
    """The last frame, once the web stands."""
    last = simulator.log("SIM0001")[-1]
    time.sleep(0.3)
    return last if simulator.log("SIM0001")[-1] == last else None
