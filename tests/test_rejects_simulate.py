"""The rejects that a line would have sent for a recording: by hand, by property, and as a person asks for them."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from linescan.cli.main import main
from linescan.errors import ConfigError, FootageError
from linescan.footage import McapWriter, open_footage
from linescan.line import Line
from linescan.messages import Frame, Gap, Progress, Region, RollEnd, RollStart
from linescan.models.runner import Execution, Runner
from linescan.recipe import load_setup
from linescan.replay import Replay
from linescan.replay.motion import START_NS, RecordedMotion
from linescan.replay.session import ReplayOptions
from linescan.replay.told import Told, ToldRoll, told_rolls
from linescan.stages.simulated_rejects import SimulatedRoll, motion_of, simulate
from tests.conftest import RUN, blot, events_of, plain, toy_bundle, write_frames

Output = pytest.CaptureFixture[str]
COUNTS_PER_MM, COUNTS_PER_LINE, HEIGHT, TOP, INSPECTION_S = 8.0, 4, 32, 500.0, 0.1  # a line is 0.5 mm
MM = COUNTS_PER_LINE / COUNTS_PER_MM
LANES = (
    '[[lanes]]\nname = "left"\nfirst_column = 0\nend_column = 32\n'
    '[[lanes]]\nname = "right"\nfirst_column = 32\nend_column = 64\n'
)


def write_line(
    folder: Path,
    *,
    left_mm: float = 300.0,
    rejects: str = "",
    web: str = "",
    camera: str = "",
    more: str = "",
    bundle: Path | None = None,
) -> Line:
    (folder / "recipes").mkdir(parents=True, exist_ok=True)
    for name, lanes in (("own", LANES), ("whole", "")):
        text = f'[model]\nfile = "{bundle or folder / "toy.pt"}"\n{lanes}'
        (folder / "recipes" / f"{name}.toml").write_text(text, encoding="utf-8")
    path = folder / "line.toml"
    path.write_text(
        f"""recipe = "recipes/own.toml"
[web]
counts_per_mm = {COUNTS_PER_MM}
top_speed_mm_s = {TOP}
{web}
[rejects]
lead_mm = 2.0
lag_mm = 3.0
inspection_s = {INSPECTION_S}
gates = [
  {{ lane = "left", output = 0, distance_mm = {left_mm} }}, {{ lane = "right", output = 3, distance_mm = 400.0 }},
]
{rejects}
[[cameras]]
name = "cam0"
producer = "camera.cti"
serial = "1"
max_line_rate_hz = 1000.0
encoder = {{ counts_per_line = {COUNTS_PER_LINE}, latch = "Latch" }}
mm_per_column = 0.5
features = {{ Height = {HEIGHT} }}
{camera}
{more}
""",
        encoding="utf-8",
    )
    return Line(path)


def region(first: int, last: int, lanes: tuple[str, ...], phase: Any = "open", name: str = "r") -> Region:
    return Region("cam0", "R", name, phase, 0, None, first, last, 0, 3, 8, 1.0, 1.0, lanes)


def progress(up_to: int, scanned: int) -> Progress:
    return Progress("cam0", "R", up_to, up_to, b"", scanned)


def told(messages: dict[int, tuple[Any, ...]], lines: int, behind: int = 40, first_line: int = 0) -> ToldRoll:
    """A roll in frames of HEIGHT lines, of which all but the last `behind` lines are final; messages by line."""
    start = RollStart("cam0", "R", "own", 0, {"inspection": {"lanes": [{"name": "left"}, {"name": "right"}]}})
    roll = ToldRoll(start, first_line, lines)
    for end in range(first_line + HEIGHT, lines + 1, HEIGHT):
        said = tuple(one for line, ones in messages.items() if end - HEIGHT < line <= end for one in ones)
        roll.told.append(Told(end, (*said, progress(max(end - behind, first_line), end))))
    roll.told.append(Told(lines, (RollEnd("cam0", "R", lines, lines, lines, 0),)))
    return roll


def simulated(line: Line, roll: ToldRoll, speed: float | None = None) -> SimulatedRoll:
    camera = line.camera(None)
    return simulate(line, camera, roll, motion_of(line, camera, roll, "footage", speed))


def of_cause(found: SimulatedRoll, cause: str = "region") -> list[Any]:
    return [one for one in found.rejects if one.cause == cause]


# ------------------------------------------------------------------------------------------------ by hand


def test_a_defect_s_window_and_when_it_was_ordered(tmp_path: Path) -> None:
    line = write_line(tmp_path)
    found = simulated(line, told({144: (region(100, 109, ("left",)),)}, 640))
    (one,) = of_cause(found)
    assert (one.lane, one.first_line, one.last_line, one.along_mm) == ("left", 100, 109, (50.0, 55.0))
    # 2 mm before the defect until 3 mm behind it, 300 mm further on
    assert (one.first_count, one.end_count) == (100 * 4 + 2400 - 16, 110 * 4 + 2400 + 24)
    assert one.window_mm == (48.0, 58.0)
    # told with the frame that ends at line 160, 0.1 s after it: 50 mm further on
    assert one.ordered_count == 160 * 4 + 400
    assert one.ordered_after_mm == pytest.approx((160 - 100) * MM + 50)
    # PLC and actuator need 0.03 s: 15 mm
    assert one.deadline_count == one.first_count - 120
    assert one.margin_mm == pytest.approx((one.deadline_count - one.ordered_count) / COUNTS_PER_MM)
    assert one.in_time
    left, right = found.lanes
    assert (left.lane, left.orders, left.late, left.margin_mm) == ("left", 1, 0, one.margin_mm)
    assert left.web_mm == 640 * MM - 2
    # the defect's window, and the lag of what lay before the roll
    assert (left.rejected_mm, left.start_mm, left.unseen_mm) == (10 + 3, 3, 0)
    assert (right.orders, right.margin_mm, right.rejected_mm) == (0, None, 3)
    # just before a frame is final: 2 frames and 40 lines are not, and the web has gone on for 0.1 s
    assert left.limit_mm == pytest.approx(300 - 2 - (32 + 40) * MM - 50, abs=0.2)


def test_what_the_recording_s_end_leaves_open_is_not_called_late(tmp_path: Path) -> None:
    """Behind a defect that near the end another may begin within merge_mm: nobody knows, and nobody was too late."""
    line = write_line(tmp_path, rejects="merge_mm = 20.0")
    found = simulated(line, told({640: (region(610, 619, ("left",)),)}, 640))
    (one,) = of_cause(found)
    left, right = found.lanes
    assert left.unseen_mm == right.unseen_mm == 0
    assert left.web_mm == one.window_mm[1] == 620 * MM + 3
    assert right.web_mm == 640 * MM - 2


def test_a_long_defect_is_ordered_while_it_grows(tmp_path: Path) -> None:
    growing = {130 + 32 * i: (region(100, 129 + 32 * i, ("left",), "update" if i else "open"),) for i in range(6)}
    found = simulated(write_line(tmp_path), told(growing, 800))
    pieces = of_cause(found)
    assert len(pieces) == 6
    assert pieces[0].first_count == 100 * 4 + 2400 - 16
    assert all(before.end_count == after.first_count for before, after in pairwise(pieces))
    assert pieces[-1].end_count == (129 + 32 * 5 + 1) * 4 + 2400 + 24
    assert all(one.in_time for one in pieces)
    assert [one.ordered_count for one in pieces] == [160 * 4 + 400 + 128 * i for i in range(6)]


def test_a_gate_that_is_too_near_is_said_to_be(tmp_path: Path) -> None:
    """What is not ordered in time is rejected all the same: nobody had said that it may pass."""
    line = write_line(tmp_path, left_mm=60.0)
    found = simulated(line, told({144: (region(100, 109, ("left",)), region(100, 109, ("right",), name="s"))}, 640))
    late, good = of_cause(found)
    assert not late.in_time
    assert late.margin_mm == pytest.approx((100 - 160) * MM + 60 - 2 - 15 - 50)
    assert good.in_time
    left, right = found.lanes
    assert (left.late, right.late) == (1, 0)
    assert left.limit_mm is not None
    assert left.limit_mm < 0
    assert left.unseen_mm > 0
    assert right.unseen_mm == 0


def test_slower_is_earlier(tmp_path: Path) -> None:
    line, roll = write_line(tmp_path), told({144: (region(100, 109, ("left",)),)}, 640)
    fast, slow = (of_cause(simulated(line, roll, speed))[0] for speed in (None, 50.0))
    assert (fast.first_count, fast.end_count) == (slow.first_count, slow.end_count)
    assert slow.margin_mm == pytest.approx(fast.margin_mm + 0.13 * (500 - 50), abs=0.2)


def test_gaps_are_rejected_in_every_lane_unless_they_are_only_told(tmp_path: Path) -> None:
    roll = told({200: (Gap("cam0", "R", 150, 179, "incomplete"),)}, 640)
    found = of_cause(simulated(write_line(tmp_path), roll), "gap")
    assert {one.lane: one.end_count - one.first_count for one in found} == {"left": 160, "right": 160}
    only_told = write_line(tmp_path, rejects='uninspected = "warn"')
    assert of_cause(simulated(only_told, roll), "gap") == []


def test_a_tie_by_pulses_and_an_offset(tmp_path: Path) -> None:
    roll = told({144: (region(100, 109, ("left",)),)}, 640)
    (pulses,) = of_cause(simulated(write_line(tmp_path, web='tie = "pulse"'), roll))
    assert pulses.first_count == 100 * 4 + 2400 - 16
    (ahead,) = of_cause(simulated(write_line(tmp_path, web="offset_counts = 1000"), roll))
    assert ahead.first_count == pulses.first_count + 1000
    assert (ahead.window_mm, ahead.margin_mm) == (pulses.window_mm, pulses.margin_mm)


def test_a_camera_behind_the_reference_line_has_so_much_less(tmp_path: Path) -> None:
    roll = told({144: (region(100, 109, ("left",)),)}, 640)
    (there,) = of_cause(simulated(write_line(tmp_path), roll))
    (behind,) = of_cause(simulated(write_line(tmp_path, camera="y_offset_mm = 20.0"), roll))
    assert behind.margin_mm == pytest.approx(there.margin_mm - 20)
    assert behind.ordered_after_mm == pytest.approx(there.ordered_after_mm)
    assert behind.window_mm == there.window_mm


# ------------------------------------------------------------------------------------------------ by property


@given(
    defects=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 60), st.booleans()), min_size=1, max_size=6),
    latency=st.integers(1, 90),
    left_mm=st.floats(20, 600),
    speed=st.floats(20, TOP),
    first_line=st.sampled_from([0, 320]),
    offset=st.integers(-(1 << 31), 1 << 31),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_defective_millimetre_lies_in_a_window(
    tmp_path: Path,
    defects: list[tuple[int, int, bool]],
    latency: int,
    left_mm: float,
    speed: float,
    first_line: int,
    offset: int,
) -> None:
    """And an order is in time where the web had not passed its deadline, by the numbers of line.toml alone."""
    line = write_line(tmp_path, left_mm=left_mm, web=f"offset_counts = {offset}")
    messages: dict[int, tuple[Any, ...]] = {}
    for number, (first, more, left) in enumerate(sorted(defects)):
        at = first_line + first
        one = region(at, at + more, ("left",) if left else ("right",), name=f"r{number}")
        messages[at + more + latency] = (*messages.get(at + more + latency, ()), one)
    roll = told(messages, first_line + 768, behind=160, first_line=first_line)
    found = simulated(line, roll, speed)
    lead, lag, distance = 16, 24, {"left": round(left_mm * 8), "right": 3200}
    zero = offset + first_line * 4
    zero = zero % (1 << 32) - first_line * 4
    for first, more, left in defects:
        lane = "left" if left else "right"
        wanted = zero + (first_line + first) * 4 + distance[lane] - lead
        end = zero + (first_line + first + more + 1) * 4 + distance[lane] + lag
        for one in sorted(found.rejects, key=lambda one: one.first_count):
            if one.lane == lane and one.first_count <= wanted < one.end_count:
                wanted = one.end_count
        assert wanted >= end
    for one in of_cause(found):
        ready = -(-max(at for at, said in messages.items() if any(r.id == one.source for r in said)) // HEIGHT) * HEIGHT
        position = zero + ready * 4 + INSPECTION_S * speed * COUNTS_PER_MM
        assert one.ordered_count == pytest.approx(position, abs=1)
        assert one.deadline_count == pytest.approx(one.first_count - 0.03 * speed * COUNTS_PER_MM, abs=2)
        assert one.in_time == (one.ordered_count <= one.deadline_count)
        assert (one.margin_mm >= 0) == one.in_time


@given(
    steps=st.lists(st.tuples(st.integers(1, 500), st.integers(1, 10**10)), min_size=1, max_size=20),
    line=st.floats(-1000, 10000),
)
def test_the_recorded_motion_is_one(steps: list[tuple[int, int]], line: float) -> None:
    """Lines and times go with each other, and no stretch is faster than it can be."""
    knots = np.cumsum([(0, 10**12), *steps], axis=0).tolist()
    motion = RecordedMotion.of(knots, 1e13, "footage")
    assert motion.line(motion.ns(line)) == pytest.approx(line, abs=1e-3 + 600 / min(ns for _, ns in steps))
    for at, ns in knots:
        assert ns - len(knots) <= motion.ns(at) <= ns


def test_frames_that_waited_came_earlier() -> None:
    """At 1000 lines/s at most, 100 lines a frame: the second was read too late, by 60 ms."""
    motion = RecordedMotion.of([(0, 10**9), (100, 1_160_000_000), (200, 1_200_000_000)], 1000, "footage")
    assert motion.ns(100) == pytest.approx(1_100_000_000, abs=10)
    assert motion.ns(300) == pytest.approx(1_300_000_000, abs=10)
    assert RecordedMotion.steady(50, 1000).ns(150) == START_NS + 10**8


def test_what_cannot_be_the_motion_of_a_web() -> None:
    with pytest.raises(FootageError, match="film: times go back between lines 100 and 200"):
        RecordedMotion.of([(0, 10**9), (100, 2 * 10**9), (200, 10**8)], 1000, "film")
    with pytest.raises(ConfigError, match=r"film: lines from \d+ on came faster than 1000 a second"):
        RecordedMotion.of([(i * 100, i * 10**7) for i in range(20)], 1000, "film")


# ------------------------------------------------------------------------------------------------ recordings


def marked(lines: int) -> NDArray[Any]:
    return blot(blot(plain(lines), 100, 10), 300, 44, size=12)


def setup_of(line: Line) -> tuple[Any, Runner]:
    setup = load_setup(recipe=line.recipe_file("own"), geometry=line.geometry("cam0"))
    return setup, Runner(setup.bundle, Execution("cpu", "float32", 8, 1))


@pytest.mark.parametrize("heights", [37, 64, 1000])
def test_a_frame_s_findings_are_told_when_the_camera_would_have_delivered_it(
    tmp_path: Path, toy: Path, heights: int
) -> None:
    """However the footage is cut: as a replay finds them, and no earlier than the lines that they need."""
    line = write_line(tmp_path, bundle=toy)
    folder = write_frames(tmp_path / "roll", marked(500), heights)
    setup, runner = setup_of(line)
    with open_footage(folder) as footage:
        Replay(setup, runner, ReplayOptions(tmp_path / "out", camera="cam0")).run(footage)
        (roll,) = told_rolls(setup, runner, footage, camera="cam0", frame_lines=HEIGHT)
    said = [one for told in roll.told for one in told.messages]
    assert [(one.id, one.phase) for one in said if isinstance(one, Region)] == [
        (one["id"], one["phase"]) for one in events_of(tmp_path / "out") if one["type"] == "region"
    ]
    ends = [told.line for told in roll.told]
    assert ends == sorted(ends)
    assert {end % HEIGHT for end in ends} == {0}
    assert (roll.lines, ends[-1]) == (500, 512)
    for told_then in roll.told:
        for one in told_then.messages:
            if isinstance(one, Progress):
                assert one.inspected_up_to <= one.lines_scanned <= told_then.line < one.lines_scanned + HEIGHT
                assert one.lines_scanned - one.inspected_up_to < 100
            if isinstance(one, Region):
                assert one.last_line < told_then.line


def recorded(
    path: Path, pixels: NDArray[Any], *, first_line: int = 0, count: int = 0, speed: float = 250.0, per_line: int = 4
) -> Path:
    """Frames of 64 lines with the counts of an encoder and the times of a web at that speed."""
    with McapWriter(path, "cam0") as writer:
        for first in range(0, len(pixels), 64):
            piece = np.ascontiguousarray(pixels[first : first + 64])
            shown = (count + (first_line + first) * per_line) % (1 << 32)
            at = 10**12 + round(first * MM / speed * 1e9)
            header = Frame("cam0", 1, "R7", first_line + first, len(piece), 64, "Mono8", shown, at, at)
            writer.write(header, piece)
    return path


def run_on(tmp_path: Path, line: Line, footage: Path, *more: str) -> tuple[int, list[dict[str, Any]]]:
    out = tmp_path / "out.jsonl"
    out.unlink(missing_ok=True)
    code = main(
        ["rejects", "--simulate", str(footage), "--config", str(line.path), "--output", str(out), *RUN, *more]
    )  # fmt: skip
    return code, [json.loads(one) for one in out.read_text().splitlines()] if out.exists() else []


def test_a_folder_of_images(tmp_path: Path, toy: Path, capsys: Output) -> None:
    line = write_line(tmp_path, bundle=toy)
    code, said = run_on(tmp_path, line, write_frames(tmp_path / "roll", marked(640), 100))
    assert code == 0
    orders = [one for one in said if one["type"] == "reject" and one["cause"] == "region"]
    assert {one["lane"] for one in orders} == {"left", "right"}
    assert all(one["in_time"] for one in orders)
    for lane, first, end in (("left", 100, 108), ("right", 300, 312)):
        low = min(one["window_mm"][0] for one in orders if one["lane"] == lane)
        high = max(one["window_mm"][1] for one in orders if one["lane"] == lane)
        assert low <= first * MM - 2 + MM
        assert high >= end * MM + 3 - MM
        assert high - low < (end - first) * MM + 5 + 20
    lanes = {one["lane"]: one for one in said if one["type"] == "lane"}
    assert lanes["left"]["late"] == lanes["right"]["late"] == 0
    assert lanes["left"]["margin_mm"] == min(one["margin_mm"] for one in orders if one["lane"] == "left")
    printed = capsys.readouterr().out
    assert "roll roll, camera cam0, recipe own: lines 0–639" in printed
    assert "left: region s0-l" in printed
    assert "% of 318.0 mm rejected, 3.0 mm of it at the start (lag_mm behind what lay before)" in printed
    assert ": untrusted, web that nobody inspected and lag_mm behind it: counts " in printed


def test_a_recording_brings_its_counts_and_times(tmp_path: Path, toy: Path, capsys: Output) -> None:
    """From the middle of a roll, over the counter's wrap, at half the top speed."""
    line = write_line(tmp_path, bundle=toy)
    wraps = (1 << 32) - 1200 * 4  # shows 0 at line 1200
    path = recorded(tmp_path / "R7.mcap", marked(640), first_line=1024, count=wraps)
    code, said = run_on(tmp_path, line, path)
    assert code == 0
    assert "note" not in capsys.readouterr().err
    assert not [one for one in said if one["type"] == "reject" and one["cause"] == "gap"]
    orders = [one for one in said if one["type"] == "reject" and one["cause"] == "region"]
    assert {one["roll"] for one in orders} == {"R7"}
    left = [one for one in orders if one["lane"] == "left"]
    assert left[0]["first_line"] >= 1024 + 90
    assert left[0]["first_count"] > 1 << 31  # before the wrap, and counted on beyond it
    assert max(one["end_count"] for one in orders) > 1 << 32
    assert [one["lane"] for one in said if one["type"] == "lane"] == ["left", "right"]
    # told with a frame of its own, 0.1 s later at 250 mm/s: 25 mm
    for one in orders:
        lines = (one["ordered_count"] - wraps - 25 * 8) / 4
        assert lines == pytest.approx(round(lines / 64) * 64, abs=0.5)
    faster = run_on(tmp_path, line, path, "--speed", "500")[1]
    fast = [one for one in faster if one["type"] == "reject" and one["cause"] == "region"]
    assert [(one["first_count"], one["end_count"]) for one in fast] == [
        (one["first_count"], one["end_count"]) for one in orders
    ]
    assert all(
        a["margin_mm"] == pytest.approx(b["margin_mm"] - 32.5, abs=0.5) for a, b in zip(fast, orders, strict=True)
    )


def test_another_encoder_than_the_line_s_is_noted(tmp_path: Path, toy: Path, capsys: Output) -> None:
    line = write_line(tmp_path, bundle=toy)
    assert run_on(tmp_path, line, recorded(tmp_path / "R.mcap", plain(256), per_line=5))[0] == 0
    assert "over lines 0 to 192 the recorded counter is +192 counts off" in capsys.readouterr().err


def test_another_recipe_and_one_of_several_cameras(tmp_path: Path, toy: Path, capsys: Output) -> None:
    """A recipe without lanes rejects in all of them."""
    second = (
        '[[cameras]]\nname = "cam1"\nproducer = "camera.cti"\nserial = "2"\nmax_line_rate_hz = 1000.0\n'
        f"encoder = {{ counts_per_line = {COUNTS_PER_LINE} }}\nmm_per_column = 0.5\n"
    )
    line = write_line(tmp_path, bundle=toy, more=second)
    folder = write_frames(tmp_path / "roll", marked(400), 100)
    assert run_on(tmp_path, line, folder)[0] == 2
    assert "--camera is needed; there are: cam0, cam1" in capsys.readouterr().err
    code, said = run_on(tmp_path, line, folder, "--camera", "cam1", "--recipe", "whole")
    assert code == 0
    noted = capsys.readouterr().err
    assert "camera cam1 alone: what cam0 would add to these lanes is not in it" in noted
    assert "cameras.cam1.features has no Height" in noted
    orders = [one for one in said if one["type"] == "reject" and one["cause"] == "region"]
    spans = {lane: [one["along_mm"] for one in orders if one["lane"] == lane] for lane in ("left", "right")}
    assert spans["left"] == spans["right"] != []


# ------------------------------------------------------------------------------------------------ what is refused


def test_what_is_refused(tmp_path: Path, toy: Path, capsys: Output) -> None:
    line = write_line(tmp_path, bundle=toy)
    folder = write_frames(tmp_path / "roll", plain(100), 50)
    narrow = write_frames(tmp_path / "rgb", np.repeat(plain(50)[..., None], 3, 2), 50)
    backward = tmp_path / "back.mcap"
    with McapWriter(backward, "cam0") as writer:
        for first, at in ((0, 2 * 10**9), (50, 10**9)):
            writer.write(Frame("cam0", 1, "R", first, 50, 64, "Mono8", first * 4, at, at), plain(50))
    fast = recorded(tmp_path / "fast.mcap", plain(1280), speed=5000)
    for footage, more, code, complaint in (
        (folder, ("--speed", "501"), 2, "--speed 501: above 0 and up to web.top_speed_mm_s = 500 expected"),
        (folder, ("--speed", "0"), 2, "--speed 0: above 0"),
        (folder, ("--recipe", "none"), 2, "there is no recipe 'none'; there are: own, whole"),
        (narrow, (), 65, "the footage has 3 channels"),
        (tmp_path / "nowhere", (), 65, "nowhere"),
        (backward, (), 65, "times go back between lines 0 and 50"),
        (fast, (), 2, "came faster than 1200 a second"),
    ):
        assert run_on(tmp_path, line, footage, *more) == (code, [])
        error = capsys.readouterr().err
        assert complaint in error
        assert "Traceback" not in error
    assert run_on(tmp_path, line, fast, "--speed", "100")[0] == 0
    bare = tmp_path / "bare.toml"
    bare.write_text(
        line.path.read_text().split("[web]")[0] + "[[cameras]]" + line.path.read_text().split("[[cameras]]")[1]
    )
    assert run_on(tmp_path, Line(bare), folder) == (2, [])
    assert f"{bare}: [rejects] and [web] are missing: where the gates are" in capsys.readouterr().err


def test_a_blind_model_simulates_nothing(tmp_path: Path, capsys: Output) -> None:
    toy_bundle(tmp_path / "toy.pt", threshold=1e6)
    line = write_line(tmp_path)
    assert run_on(tmp_path, line, write_frames(tmp_path / "roll", plain(100), 50)) == (70, [])
    assert "self-check" in capsys.readouterr().err
