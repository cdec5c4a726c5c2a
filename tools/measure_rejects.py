#!/usr/bin/env python3
"""How long a region takes from the worker's message into the PLC's registers; and what the schedule costs.

measure_rejects.py                              100 regions a second for 30 s, few of them before their gates
measure_rejects.py --pending 10000              with so many orders between camera and gate
measure_rejects.py --folder DIR                 journal and book on that disk (default: that of temporary files)

Three processes: the publisher as it runs in production, the reference PLC (tools/plc), and this one, which tells what
acquire and a worker would. Time counts from before the message is sent until the PLC's server has the write of the
FIFO's head behind its entry; so ZeroMQ's way is in it. Beside other work start it with `chrt -r 5`, and say so.

With --pending the windows adjoin one another: then they are one row for the reference PLC, whose program is in Python
too and looks through all its rows in each scan. What the schedule makes of windows apart is seen with --schedule.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from linescan.codec import decode
from linescan.errors import PeerError
from linescan.journal import Journal
from linescan.journal.orders import OrderBook
from linescan.line import Line, Rejects
from linescan.line import Web as WebSettings
from linescan.live_bench.processes import free_ports, stage
from linescan.messages import (
    Message,
    Notice,
    Origin,
    Progress,
    Region,
    Register,
    Registered,
    Resume,
    Resumed,
    RollStart,
    Stamp,
    Status,
)
from linescan.plc import registers as at
from linescan.plc.registers import Packing
from linescan.schedule import Schedule
from linescan.stages.registration import boot_id
from linescan.transport import Client, Sent
from linescan.transport.zeromq import ZmqNetwork
from linescan.web import Motion

Answer = TypeVar("Answer", Registered, Resumed)
PLC = Path(__file__).parent / "plc" / "plc.py"
APART, LONG = 50, 10  # lines from region to region, and of each
ADJOINING = APART - 10  # lines of each where windows, 5 longer before and behind, are to adjoin one another
COUNTS_PER_MM = 10
NEAR_MM = 200  # from camera to gate where few are to be pending
ANSWER_S, WARM_UP_S = 20.0, 2.0
ON_ITS_WAY = 400  # messages of a worker that are not acknowledged
BLOCK = 5000  # events of the schedule that are timed together


def line_toml(folder: Path, port: int, distance_mm: float, speed: float) -> str:
    return f"""
recipe = "none.toml"
[[cameras]]
name = "cam0"
producer = "none.cti"
serial = "1"
max_line_rate_hz = {speed}
mm_per_column = 0.1
encoder = {{counts_per_line = 1}}
[transport]
directory = "{folder}/run"
[journal]
file = "{folder}/journal.sqlite"
[web]
counts_per_mm = {COUNTS_PER_MM}
top_speed_mm_s = {2 * speed / COUNTS_PER_MM}
[rejects]
gates = [{{lane = "all", output = 0, distance_mm = {distance_mm}}}]
lead_mm = 0.5
lag_mm = 0.5
[plc]
host = "127.0.0.1"
port = {port}
"""


class Web:
    """Where the web is by the PLC's counter, which runs at a constant speed."""

    def __init__(self, count: int, monotonic_ns: int, speed: float) -> None:
        self._count, self._ns, self._speed = count, monotonic_ns, speed

    def time_of(self, line: int) -> int:
        return self._ns + int((line - self._count) / self._speed * 1e9)

    def line_at(self, monotonic_ns: int) -> int:
        return self._count + int((monotonic_ns - self._ns) / 1e9 * self._speed)


@contextmanager
def reference_plc(folder: Path, port: int, start: int, speed: float) -> Iterator[Web]:
    words = ["--port", str(port), "--outputs", "1", "--table", "65536", "--start", str(start)]
    words += ["--counts-per-s", str(speed), "--back-counts", "100", "--writes", str(folder / "writes")]
    process = subprocess.Popen([sys.executable, PLC, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "listening\n":
            raise PeerError("the reference PLC does not start")
        time.sleep(0.1)  # a scan
        print("status", file=process.stdin, flush=True)
        status = json.loads(process.stdout.readline())
        yield Web(status["count"], status["monotonic_ns"], speed)
    finally:
        process.kill()
        process.wait()


class Feeder:
    """Tells the publisher what acquire and a worker of one camera would."""

    def __init__(self, network: ZmqNetwork, line: Line, web: Web, long: int) -> None:
        self._web, self._long = web, long
        self._acquire: Client = network.client(line.stages_endpoint)
        self._worker: Client = network.client(line.stages_endpoint)
        self._network = network
        self._numbers = count()
        self._acknowledged = -1
        self._sent = -1
        self._alive_ns = 0
        registered = self._ask(self._acquire, Register("cam0", ""), Registered)
        self._roll = registered.roll
        self._epoch = registered.generation << 20 | 1
        self._acquire.send(Origin("cam0", self._roll, 0, web.time_of(0), time.time_ns(), boot_id()))
        self._ask(self._worker, Resume("cam0", self._epoch), Resumed)
        self._tell(RollStart("cam0", self._roll, "none", 0, {"columns": 1000, "pixel_format": "Mono8"}), 0)

    def _ask(self, link: Client, message: Message, kind: type[Answer]) -> Answer:
        until = time.monotonic() + ANSWER_S
        while time.monotonic() < until:
            link.send(message)
            self._network.wait([link], 0.5)
            while (received := link.receive()) is not None:
                if isinstance(received.message, kind):
                    return received.message
        raise PeerError("the publisher does not answer")

    def region(self, first: int) -> int:
        """Tells an opened region at line `first`, and that it is over and inspected; when the first was sent."""
        end = first + self._long
        name = f"s0-l{first}-c10"
        sent_ns = time.monotonic_ns()
        for phase in ("open", "close"):
            region = Region("cam0", self._roll, name, phase, 0, None, first, end - 1, 10, 30, 200, 0.9, 0.7, ("all",))
            self._tell(region, end)
        up_to = first + APART
        self._tell(Progress("cam0", self._roll, up_to, up_to - 136, b"s" * 2000, up_to), up_to)
        self.serve()
        return sent_ns

    def serve(self) -> None:
        """Takes acknowledgements, and says that acquire is alive."""
        while (received := self._worker.receive()) is not None:
            self._acknowledged = max(self._acknowledged, getattr(received.message, "sequence", -1))
        while self._acquire.receive() is not None:
            pass
        now = time.monotonic_ns()
        if now - self._alive_ns > 5e8:
            self._alive_ns = now
            self._acquire.send(Status("acquire", "cam0", "acquiring", (), {"leased": 1}, now))

    def wait_for_room(self, most: int = ON_ITS_WAY) -> None:
        while self._sent - self._acknowledged > most:
            self._network.wait([self._worker], 0.1)
            self.serve()

    def _tell(self, message: Message, line: int) -> None:
        self._sent = next(self._numbers)
        stamp = Stamp("cam0", self._epoch, self._sent, self._web.time_of(line))
        if self._worker.send(message, stamp) is not Sent.YES:
            raise PeerError("the publisher takes nothing any more")


def first_lines(folder: Path, distance: int, lead: int) -> dict[int, int]:
    """First line of a rejected region → when the PLC's server had the head behind its entry."""
    packing, slots, found = Packing(), dict[int, int](), dict[int, int]()
    head = 0
    for row in (folder / "writes").read_text().splitlines():
        monotonic_ns, address, *words = map(int, row.split())
        if at.FIFO <= address < at.PLC_BLOCK:
            for start in range(0, len(words), at.ENTRY_WORDS):
                slots[(address + start - at.FIFO) // at.ENTRY_WORDS] = packing.read_u32(words[start + 2 : start + 4])
        elif address == at.HEAD:
            while head != words[0]:
                found.setdefault(slots[head % at.DEPTH] - distance + lead, monotonic_ns)
                head = (head + 1) & 0xFFFF
        elif address == 0:
            head = 0  # a new session
    return found


def measure(folder: Path, pending: int, rate: float, seconds: float) -> tuple[list[float], int]:
    """Milliseconds of each region, in the order told, and how many orders the book has in the end.

    Raises PeerError where one never came to the PLC.
    """
    speed = rate * APART
    distance = max(pending * APART, NEAR_MM * COUNTS_PER_MM)
    before = pending * APART + 2 * APART  # web that had passed when the line started
    port = free_ports(1)
    path = folder / "line.toml"
    path.write_text(line_toml(folder, port, distance / COUNTS_PER_MM, speed), encoding="utf-8")
    line, network = Line(path), ZmqNetwork()
    with reference_plc(folder, port, before, speed) as web, stage("publisher", path):
        feeder = Feeder(network, line, web, ADJOINING if pending else LONG)
        lines = count(2 * APART, APART)
        for _ in range(pending):
            feeder.region(next(lines))
            feeder.wait_for_room()
        sent: dict[int, int] = {}
        warm = time.monotonic() + WARM_UP_S
        until: float | None = None
        while until is None or time.monotonic() < until:
            first = next(lines)
            due_ns = web.time_of(first + APART)
            while (left_ns := due_ns - time.monotonic_ns()) > 0:
                time.sleep(min(left_ns / 1e9, 0.005))
                feeder.serve()
            feeder.wait_for_room()
            sent_ns = feeder.region(first)
            if until is not None:
                sent[first] = sent_ns
            elif sent_ns - due_ns < 1e9 / rate and time.monotonic() > warm:  # what had passed before is caught up with
                until = time.monotonic() + seconds
        feeder.wait_for_room(0)
        time.sleep(1.0)
    network.close()
    written = first_lines(folder, distance, COUNTS_PER_MM // 2)
    missing = sent.keys() - written.keys()
    if missing:
        said = "; ".join(f"{notice.kind}: {notice.text}" for notice in notices(line))
        raise PeerError(f"{len(missing)} of {len(sent)} regions never came to the PLC; what the publisher told: {said}")
    with OrderBook(folder / "journal.sqlite.orders") as book:
        kept = len(book.pending())
    return [(written[first] - at_ns) / 1e6 for first, at_ns in sent.items()], kept


def notices(line: Line) -> list[Notice]:
    """What the publisher told besides regions and rejects: whether it trusted the counters."""
    settings = line.settings.journal
    with Journal(Path(settings.file), settings) as journal:
        told = [decode(one.event) for one in journal.since(0, journal.last)]
    return [event for event in told if isinstance(event, Notice)]


def schedule_cost(blocks: int, pending: int) -> list[float]:
    """Microseconds an event (region, progress, position) for the schedule, by blocks of BLOCK events of one roll."""
    gates = [{"lane": "all", "output": 0, "distance_mm": pending * APART / COUNTS_PER_MM}]
    rejects = Rejects.model_validate({"gates": gates, "lead_mm": 0.5, "lag_mm": 0.5})
    web = WebSettings(counts_per_mm=COUNTS_PER_MM, top_speed_mm_s=500)
    motion = Motion.of(web)
    schedule = Schedule.of(web, rejects, {"cam0": ["all"]}, motion)
    motion.moved(0, 0)
    schedule.begin("cam0", 0, now_ns=0)
    cost, lines, now_ns = [], count(APART, APART), 0
    for _ in range(blocks):
        began = time.perf_counter()
        for _ in range(BLOCK):
            first = next(lines)
            now_ns += 10_000_000
            motion.moved(first, now_ns)
            schedule.region("cam0", ["all"], first, first + LONG, opens=True, now_ns=now_ns, source="s")
            schedule.reached("cam0", first + APART - LONG)
            schedule.moved(now_ns)
        cost.append((time.perf_counter() - began) / BLOCK * 1e6)
    return cost


def shares(milliseconds: list[float]) -> str:
    ordered = sorted(milliseconds)
    p50, p90, p99 = (ordered[min(int(len(ordered) * share), len(ordered) - 1)] for share in (0.5, 0.9, 0.99))
    return f"p50 {p50:.2f}, p90 {p90:.2f}, p99 {p99:.2f}, most {ordered[-1]:.2f} ms of {len(ordered)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rate", type=float, default=100.0, help="regions a second")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--pending", type=int, default=0, help="orders between camera and gate, at least")
    parser.add_argument("--folder", type=Path, help="where journal and book are to be")
    parser.add_argument("--schedule", type=int, metavar="BLOCKS", help=f"the schedule alone, BLOCKS of {BLOCK} events")
    arguments = parser.parse_args()
    if arguments.schedule:
        for number, cost in enumerate(schedule_cost(arguments.schedule, max(arguments.pending, 40))):
            print(f"events {number * BLOCK} to {(number + 1) * BLOCK}: {cost:.1f} µs each")
        return
    with tempfile.TemporaryDirectory(prefix="rejects-", dir=arguments.folder) as name:
        took, kept = measure(Path(name), arguments.pending, arguments.rate, arguments.seconds)
    print(f"{arguments.rate:g} regions a second, {kept} orders pending, {arguments.seconds:g} s: {shares(took)}")
    quarter = max(len(took) // 4, 1)
    for number in range(4):
        print(f"  quarter {number + 1}: {shares(took[number * quarter : (number + 1) * quarter] or took)}")


if __name__ == "__main__":
    main()
