"""Rolls with random faults on a line of real processes, judged by the camera's log and pixels.

python tools/faults.py [--rounds N] [--seconds S] [--seed S] [--only KIND …]

Each round is a roll with one kind of fault in it, at random moments. Prints a row for each kind; exit code 1 where a
line is in no account, a gap is longer than it may be, or an event is lost, doubled or another one.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.line_oracle import Oracle, Verdict, check_subscriptions  # noqa: E402
from tests.line_rig import HEIGHT, SERIAL, LineRig, build_producer  # noqa: E402

BUFFERED = 64 * HEIGHT  # lines in the camera's buffers, which go with it

Fault = Callable[[LineRig, random.Random], int]  # → lines that may be in gaps though the camera delivered them


def kill_worker(rig: LineRig, chance: random.Random) -> int:
    rig.kill("worker")
    rig.pause(chance.uniform(0, 1))
    rig.start("worker")
    rig.pause(chance.uniform(0, 3))
    return 0


def kill_publisher(rig: LineRig, chance: random.Random) -> int:
    rig.kill("publisher")
    rig.pause(chance.uniform(0, 2))
    rig.start("publisher")
    rig.pause(chance.uniform(0, 2))
    return 0


def kill_both(rig: LineRig, chance: random.Random) -> int:
    first, second = chance.sample(["worker", "publisher"], 2)
    rig.kill(first)
    rig.pause(chance.uniform(0, 0.5))
    rig.kill(second)
    rig.pause(chance.uniform(0, 1))
    rig.start(second, first)
    rig.pause(chance.uniform(0, 2))
    return 0


def hang_worker(rig: LineRig, chance: random.Random) -> int:
    """For longer than its lease, and then it wakes up; a supervisor's replacement waits."""
    hung = rig.processes["worker"]
    waiting = rig.launch("worker")
    rig.wait(lambda: waiting.ready, "the replacement")
    hung.popen.send_signal(signal.SIGSTOP)
    rig.pause(2.5 + chance.uniform(0, 2))
    hung.popen.send_signal(signal.SIGCONT)
    rig.wait(lambda: None not in (hung.code, waiting.code) or hung.code == 69 or waiting.code == 69, "one to give way",
             mortal=["worker"])  # fmt: skip
    if waiting.code is None:
        rig.adopt(waiting)
        rig.others.append(hung)
    return 0


def kill_acquire(rig: LineRig, chance: random.Random) -> int:
    inspected, first = rig.progress[rig.roll], min(rig.watcher.offsets[rig.roll])
    rig.kill("acquire")
    came = rig.web_line() - first
    rig.pause(chance.uniform(0, 2))
    rig.start("acquire")
    rig.inspect_lines(came - inspected + 500)
    return came - inspected


def unplug(rig: LineRig, chance: random.Random) -> int:
    acquire = rig.processes["acquire"]
    inspected, first = rig.progress[rig.roll], min(rig.watcher.offsets[rig.roll])
    rig.simulator.unplug(SERIAL)
    rig.wait_exit(acquire)
    came = rig.web_line() - first
    rig.pause(chance.uniform(0, 1))
    rig.simulator.replug(SERIAL)
    rig.start("acquire")
    rig.inspect_lines(came - inspected + 500)
    return BUFFERED


def kill_at_change(rig: LineRig, chance: random.Random) -> int:
    """Worker or publisher, where one roll ends and another begins."""
    rig.change_roll()
    rig.pause(chance.uniform(0, 0.3))
    stages = chance.choice([["worker"], ["publisher"], ["worker", "publisher"]])
    rig.kill(*stages)
    rig.pause(chance.uniform(0, 1))
    rig.start(*stages)
    rig.wait(lambda: rig.progress.get(rig.roll), "frames of the new roll")
    return 0


def drop(rig: LineRig, chance: random.Random) -> int:
    rig.simulator.send(SERIAL, f"drop {chance.randint(1, 5)}", timeout_s=60)
    rig.pause(chance.uniform(0, 1))
    return 0


def incomplete(rig: LineRig, chance: random.Random) -> int:
    rig.simulator.send(SERIAL, f"incomplete {chance.randint(1, 5)}", timeout_s=60)
    rig.pause(chance.uniform(0, 1))
    return 0


KINDS: dict[str, Fault] = {
    "kill worker": kill_worker,
    "kill publisher": kill_publisher,
    "kill both": kill_both,
    "hang worker": hang_worker,
    "kill acquire": kill_acquire,
    "unplug": unplug,
    "kill at roll change": kill_at_change,
    "drop frames": drop,
    "incomplete frames": incomplete,
}


@dataclass
class Row:
    rolls: int = 0
    lines: int = 0
    not_delivered: int = 0
    in_gaps: int = 0
    needless: int = 0
    allowed: int = 0
    unaccounted: int = 0
    events: int = 0
    lost: int = 0
    doubled: int = 0
    differing: int = 0
    violations: int = 0

    def add(self, verdict: Verdict, allowed: int, events: int) -> None:
        self.rolls += 1
        self.lines += verdict.lines
        self.not_delivered += verdict.not_delivered
        self.in_gaps += verdict.gap_lines
        self.needless += verdict.needless
        self.allowed += allowed
        self.unaccounted += verdict.missed
        self.events += events
        self.lost += len(verdict.lost)
        self.doubled += len(verdict.doubled)
        self.differing += len(verdict.differing)


def run_round(rig: LineRig, oracle: Oracle, kind: str, chance: random.Random, row: Row) -> None:
    first = rig.fresh_roll()
    rig.pause(chance.uniform(0, 1.5))
    allowed = KINDS[kind](rig, chance)
    rig.start("publisher", "worker", "acquire")
    rig.inspect_lines(500)
    for roll in dict.fromkeys((first, rig.finish())):
        verdict = oracle.judge(roll)
        row.add(verdict, allowed, len(rig.messages(roll)))
        try:
            verdict.check(needless=allowed)
        except AssertionError as error:
            row.violations += 1
            print(f"{kind}, {roll}: {str(error)[:2000]}", flush=True)


def print_table(rows: dict[str, Row]) -> None:
    heads = ("fault", "rolls", "lines", "not delivered", "in gaps", "needless (allowed)", "unaccounted", "events",
             "lost", "doubled", "differing")  # fmt: skip
    print("\n| " + " | ".join(heads) + " |")
    print("|---|" + "---:|" * (len(heads) - 1))
    for kind, row in rows.items():
        values = (
            kind, row.rolls, row.lines, row.not_delivered, row.in_gaps, f"{row.needless} ({row.allowed})",
            row.unaccounted, row.events, row.lost, row.doubled, row.differing,
        )  # fmt: skip
        print("| " + " | ".join(map(str, values)) + " |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no round after so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND", help=", ".join(KINDS))
    args = parser.parse_args()
    chance = random.Random(args.seed)
    rows = {kind: Row() for kind in args.only}
    until = time.monotonic() + args.seconds
    with tempfile.TemporaryDirectory(prefix="faults") as name:
        producer = build_producer(Path(name))
        if producer is None:
            raise SystemExit("the simulated camera needs a C compiler")
        with LineRig(Path(name), producer) as rig:
            rig.begin()
            oracle = Oracle(rig)
            for number in range(args.rounds):
                if time.monotonic() > until:
                    break
                kind = args.only[number % len(args.only)]
                run_round(rig, oracle, kind, chance, rows[kind])
                print(".", end="", flush=True)
            check_subscriptions(rig)
    print_table(rows)
    return 1 if any(row.violations for row in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
