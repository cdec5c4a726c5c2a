#!/usr/bin/env python3
"""The reference PLC: a Modbus TCP server, an encoder's counter and the scan cycle of program.py, in real time.

plc.py --port 1502 --counts-per-s 20000 --log gates.log       a web at a constant speed
plc.py --port 1502 --script 2:20000,1:2000,0.5:-500,3:20000   seconds:counts a second, one after the other
plc.py --port 1502 --simulator state/SIM0001                  the encoder of a simulated camera (tools/simulator)

It prints `listening` when it can be spoken to. A line a gate's change goes to the log:
output count monotonic_ns pass|reject why. Commands come on stdin, one a line, each answered by a line:

status                     the state as JSON
speed COUNTS_PER_S, jump COUNT
freeze, thaw               the program stands, the server answers on; its outputs fall off
enable 0|1
table ROWS                 how many windows it can remember
sync                       latches the count, as a pulse on the input does
ack, splice, roll-start [ID], roll-end
gate-stuck 0|1             the sensors see no gate open
tear 0|1                   the position is left half written
quit
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import selectors
import sys
import time
from pathlib import Path

from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from encoder import Moving, Simulator
from program import MASK, Image, Program, Verdict

from linescan.plc import registers as at


class Machine:
    """The program with its inputs and outputs: encoder, buttons, gates and their sensors."""

    def __init__(self, arguments: argparse.Namespace, words: list[int]) -> None:
        high_first, swap_bytes = arguments.word_order == "high-first", arguments.byte_order == "little"
        image = self.image = Image(words, arguments.base_register, high_first, swap_bytes)
        self.program = Program(
            image,
            outputs=arguments.outputs,
            depth=arguments.depth,
            table_size=arguments.table,
            heartbeat_ns=int(arguments.heartbeat_s * 1e9),
            back_counts=arguments.back_counts,
        )
        self.encoder = make_encoder(arguments)
        self.log = arguments.log.open("a") if arguments.log else None
        self.scan_s = arguments.scan_s
        self._watchdog_ns = int(arguments.watchdog_s * 1e9)
        self._scanned_ns: int | None = None
        self.frozen = self.stuck = self.tear = False
        self.count = 0
        self.verdicts = [Verdict(True, "")] * arguments.outputs
        self.program.start()
        image.put(at.PLC_BLOCK + 1, arguments.map_version)

    def scan(self) -> None:
        now_ns = time.monotonic_ns()
        self._fall_off(now_ns)
        self.count = self.encoder.count(now_ns) & MASK
        if self.frozen:
            verdicts = [Verdict(False, "stopped")] * len(self.verdicts)
        else:
            verdicts = self.program.scan(self.count, now_ns)
        for output, (new, old) in enumerate(zip(verdicts, self.verdicts, strict=True)):
            if new.passes != old.passes:
                self._gate(output, new, now_ns)
        self.verdicts = verdicts
        if self.tear and not self.frozen:
            self.image.put_u32(at.POSITION, self.count ^ 0x8000)  # beside the check word of another one

    def _fall_off(self, now_ns: int) -> None:
        """The hardware watchdog: without a scan for so long the outputs are off, and were from then on."""
        before_ns, self._scanned_ns = self._scanned_ns, now_ns
        if not self._watchdog_ns or before_ns is None or now_ns - before_ns <= self._watchdog_ns:
            return
        fell_ns = before_ns + self._watchdog_ns
        self.count = self.encoder.count(fell_ns) & MASK
        fallen = Verdict(False, "watchdog")
        for output, verdict in enumerate(self.verdicts):
            if verdict.passes:
                self._gate(output, fallen, fell_ns)
        self.verdicts = [fallen] * len(self.verdicts)

    def _gate(self, output: int, verdict: Verdict, now_ns: int) -> None:
        if self.log:
            moved = "pass" if verdict.passes else "reject"
            self.log.write(f"{output} {self.count} {now_ns} {moved} {verdict.why}\n")
            self.log.flush()
        if not verdict.passes and not self.stuck:
            gate = at.GATES + at.GATE_WORDS * output
            self.image.put_guarded(gate + 1, self.count)
            self.image.put(gate, self.image.get(gate) + 1)

    def press(self, address: int) -> None:
        self.image.put(address, self.image.get(address) + 1)

    def obey(self, line: str) -> str:
        """One command; what is to be answered. Raises ValueError for one that makes no sense."""
        name, *words = line.split()
        program, now_ns = self.program, time.monotonic_ns()
        buttons = {"ack": at.ACKNOWLEDGE, "splice": at.SPLICE, "roll-end": at.ROLL_END}
        if name == "status":
            return self.status()
        if name in ("freeze", "thaw"):
            self.frozen = name == "freeze"
        elif name in ("speed", "jump"):
            if not isinstance(self.encoder, Moving):
                raise ValueError("the simulated camera's encoder is moved there")
            getattr(self.encoder, name)(now_ns, float(words[0]))
        elif name == "enable":
            program.enabled = bool(int(words[0]))
        elif name == "table":
            program.table_size = int(words[0])
        elif name == "sync":
            self.image.put_guarded(at.SYNC_COUNT, self.encoder.count(now_ns) & MASK)
            self.image.put(at.SYNC_NUMBER, self.image.get(at.SYNC_NUMBER) % 0xFFFF + 1)
        elif name in buttons:
            self.press(buttons[name])
        elif name == "roll-start":
            self._write_roll_id(words[0] if words else "")
            self.press(at.ROLL_START)
        elif name in ("gate-stuck", "tear"):
            setattr(self, {"gate-stuck": "stuck", "tear": "tear"}[name], bool(int(words[0])))
        else:
            raise ValueError("no such command")
        return "done"

    def _write_roll_id(self, text: str) -> None:
        coded = text.encode("ascii").ljust(2 * at.ROLL_ID_WORDS, b"\0")
        for word in range(at.ROLL_ID_WORDS):
            self.image.put(at.ROLL_ID + word, int.from_bytes(coded[2 * word : 2 * word + 2], "big"))

    def status(self) -> str:
        program = self.program
        return json.dumps({
            "count": self.count,
            "monotonic_ns": time.monotonic_ns(),
            "session": program.session,
            "tail": program.tail,
            "head": self.image.get(at.HEAD),
            "status": self.image.get(at.STATUS),
            "table": [[window.outputs, window.first, window.end] for window in program.table],
            "limits": program.limits,
            "last_sequence": program.last_sequence,
            "repeated": program.repeated,
            "refused": program.refused,
            "stops_line": program.stops_line,
            "gates": [list(verdict) for verdict in self.verdicts],
        })  # fmt: skip


def make_encoder(arguments: argparse.Namespace) -> Moving | Simulator:
    if arguments.simulator:
        return Simulator(arguments.simulator.parent, arguments.simulator.name)
    return Moving(time.monotonic_ns(), arguments.start, arguments.counts_per_s, arguments.script)


async def scan_for_ever(machine: Machine) -> None:
    due = time.monotonic()
    while True:
        machine.scan()
        due = max(due + machine.scan_s, time.monotonic())
        await asyncio.sleep(due - time.monotonic())


async def commands() -> asyncio.StreamReader:
    """Of stdin: a pipe or a terminal as they come; all of a file, and none of /dev/null, which nobody can wait for."""
    reader = asyncio.StreamReader()
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(sys.stdin, selectors.EVENT_READ)
    except PermissionError:
        reader.feed_data(sys.stdin.buffer.read())
        reader.feed_eof()
    else:
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def obey_stdin(machine: Machine) -> None:
    """Until `quit`; a stdin that ends leaves the PLC running."""
    reader = await commands()
    while line := (await reader.readline()).decode().strip():
        if line == "quit":
            return
        try:
            answer = machine.obey(line)
        except (ValueError, IndexError) as error:
            answer = f"refused: {line}: {error}"
        print(answer, flush=True)
    await asyncio.Event().wait()


async def make_server(arguments: argparse.Namespace) -> tuple[ModbusTcpServer, list[int]]:
    """The server and its own store of registers, which the program works on between requests."""
    stores: list[list[int]] = []
    writes = arguments.writes.open("a", buffering=1) if arguments.writes else None

    async def note(
        _function: int, _start: int, address: int, _count: int, store: list[int], values: list[int] | None
    ) -> ExcCodes | None:
        if not stores:
            stores.append(store)
        if writes and values:
            print(time.monotonic_ns(), address - arguments.base_register, *values, file=writes)
        return None

    words = arguments.base_register + at.SPAN
    registers = SimData(0, count=words, values=0, datatype=DataType.REGISTERS)
    device = SimDevice(arguments.device_id, simdata=[registers], action=note)
    server = ModbusTcpServer(device, address=(arguments.host, arguments.port))
    await server.async_getValues(arguments.device_id, 3, 0, 1)
    return server, stores[0]


async def serve(arguments: argparse.Namespace) -> None:
    server, words = await make_server(arguments)
    machine = Machine(arguments, words)
    await server.serve_forever(background=True)
    print("listening", flush=True)
    scanning = asyncio.create_task(scan_for_ever(machine))
    obeying = asyncio.create_task(obey_stdin(machine))
    done, _ = await asyncio.wait((scanning, obeying), return_when=asyncio.FIRST_COMPLETED)
    await server.shutdown()
    for task in done:
        task.result()
    scanning.cancel()


def script(text: str) -> list[tuple[float, float]]:
    parts = [part.partition(":") for part in text.split(",")]
    return [(float(seconds), float(speed)) for seconds, _, speed in parts]


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=1502)
    parser.add_argument("--device-id", type=int, default=1)
    parser.add_argument("--base-register", type=int, default=0)
    parser.add_argument("--word-order", choices=("high-first", "low-first"), default="high-first")
    parser.add_argument("--byte-order", choices=("big", "little"), default="big")
    parser.add_argument("--scan-s", type=float, default=0.01)
    parser.add_argument("--watchdog-s", type=float, default=0.0, help="longest time without a scan; 0: any")
    parser.add_argument("--heartbeat-s", type=float, default=0.5, help="linescan's may stand still for so long")
    parser.add_argument("--outputs", type=int, choices=range(1, at.OUTPUTS + 1), default=4, metavar="1…16")
    parser.add_argument("--depth", type=int, default=at.DEPTH, help="entries of the FIFO, a power of two")
    parser.add_argument("--table", type=int, default=256, help="windows that the program can remember")
    parser.add_argument("--back-counts", type=int, default=2000, help="how far the web may run back")
    parser.add_argument("--counts-per-s", type=float, default=0.0)
    parser.add_argument("--start", type=float, default=0.0, help="count at the start; near 2³² to see it wrap")
    parser.add_argument("--script", type=script, default=[])
    parser.add_argument("--simulator", type=Path, help="STATE_FOLDER/SERIAL of a simulated camera")
    parser.add_argument("--log", type=Path)
    parser.add_argument("--writes", type=Path, help="a line a write: monotonic_ns, offset, words")
    parser.add_argument("--map-version", type=int, default=at.VERSION, help="another one is a wrong map")
    return parser.parse_args(words)


if __name__ == "__main__":
    logging.getLogger("pymodbus").addHandler(logging.NullHandler())  # connections come and go here
    asyncio.run(serve(parse()))
