"""Every type that travels: frozen dataclasses, which `codec.py` packs.

Who tells whom:

    acquire → worker      Stamp + Frame + pixels, Stamp + Gap | RollStart | RollEnd | StreamEnd     the frames' stream
                          Grant, Refused, Revoked
    worker → acquire      Hello, Credit
    worker → publisher    Stamp + RollStart | Region | Gap | RollEnd | Progress                      the events' stream
                          Resume, Prepared, Status
    publisher → worker    Resumed, Ack, Prepare, Refused
    acquire → publisher   Register, Origin, Latched, Leaving, RollCommand (a replay), Status
    publisher → acquire   Registered, Kept, RollCommand, RollState, Refused
    publisher → world     Published, Progress, Status;  Since → Published …, Caught           the public sockets
    operator → publisher  RollCommand → Preparing …, RollState | Refused;  Order → Done | Refused
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

PixelFormat = Literal["Mono8", "Mono10", "Mono12", "Mono16", "RGB8"]
GapCause = Literal[
    "camera-lost", "incomplete", "overrun", "acquire-lost", "worker-lost", "invalid-image", "model-fault", "shutdown",
    "unreadable",
]  # fmt: skip
Phase = Literal["open", "update", "close"]
RejectCause = Literal["region", "gap", "outside-roll", "untrusted", "test"]
NoticeKind = Literal[
    "splice", "test-reject", "bypass-on", "bypass-off", "alarm", "repeating", "sync", "untrusted", "trusted",
    "gate-unconfirmed", "gate-unasked", "acknowledged", "verdict", "refused",
]  # fmt: skip


class Message:
    """Base of everything that travels."""


@dataclass(frozen=True)
class Frame(Message):
    """Consecutive lines of one camera in one buffer; the pixels are beside it.

    `monotonic_ns` is compared within one host only; `utc_ns` annotates and decides nothing.
    """

    camera: str
    epoch: int
    roll: str
    first_line: int
    lines: int
    columns: int
    pixel_format: PixelFormat
    encoder_count: int | None
    monotonic_ns: int
    utc_ns: int


@dataclass(frozen=True)
class Gap(Message):
    """Lines first_line…last_line (inclusive) that were lost or not inspected."""

    camera: str
    roll: str
    first_line: int
    last_line: int
    cause: GapCause
    estimated: bool = False


@dataclass(frozen=True)
class RollStart(Message):
    camera: str
    roll: str
    recipe: str
    first_line: int
    settings: dict[str, Any]


@dataclass(frozen=True)
class RollEnd(Message):
    """The roll's end: `lines` scanned, all of them inspected or in gaps."""

    camera: str
    roll: str
    lines: int
    inspected_up_to: int
    lines_inspected: int
    lines_in_gaps: int


@dataclass(frozen=True)
class Progress(Message):
    """How far the inspection is: what comes before `inspected_up_to` is final or in an announced gap.

    The lines from there to `lines_scanned` had come and were pending.
    """

    camera: str
    roll: str
    inspected_up_to: int
    resume_from: int
    snapshot: bytes
    lines_scanned: int = 0


@dataclass(frozen=True)
class Region(Message):
    """A connected region of score above the threshold; bounds are inclusive, in pixels of the camera.

    `area_px` counts camera pixels (scaled ones times n²); `peak` and `mean` are scores. `part` counts the pieces of a
    region longer than the stated maximum; `coalesced` marks a flood of regions that became one a lane; `padded` one
    found in a segment smaller than a patch. `category` and `severity` are the recipe's, by size. Where the line says
    how large a pixel is, `across_mm` is (from, to) across the web and `along_mm` along it from the roll's line 0.
    `merged_into` is an id of the same camera, or "camera/id" of another one, which saw the same defect.
    """

    camera: str
    roll: str
    id: str
    phase: Phase
    part: int
    merged_into: str | None
    first_line: int
    last_line: int
    first_column: int
    last_column: int
    area_px: int
    peak: float
    mean: float
    lanes: tuple[str, ...]
    coalesced: bool = False
    padded: bool = False
    category: str = ""
    severity: int = 0
    across_mm: tuple[float, ...] | None = None
    along_mm: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Reject(Message):
    """Counts first_count…end_count − 1 of the PLC's counter at one lane's gate: what passes there then is to go out.

    Counts do not wrap here. `id` says what is rejected why, so that the same told twice is the same; `source` is the id
    of a region, or what else it comes from. The PLC had to have it when its counter stood at `deadline_count`.
    """

    roll: str
    id: str
    lane: str
    cause: RejectCause
    source: str
    first_count: int
    end_count: int
    deadline_count: int
    in_time: bool
    category: str = ""
    severity: int = 0


@dataclass(frozen=True)
class Notice(Message):
    """Something that happened on the line and belongs in its book: at `count` of the PLC's counter, where it has one.

    `about` is the id of a region or reject, or the number of an event, where it speaks of one.
    """

    roll: str
    kind: NoticeKind
    lane: str
    count: int | None
    about: str
    text: str


# ------------------------------------------------------------------------------------------ the frames' stream


@dataclass(frozen=True)
class Stamp(Message):
    """Goes before what belongs to a lease: whose, under which epoch, and its number in that epoch's stream.

    `needed_ns` is the monotonic time at which the last line behind it had come, 0 where there is none.
    """

    camera: str
    epoch: int
    sequence: int
    needed_ns: int


@dataclass(frozen=True)
class StreamEnd(Message):
    """Acquire stops in order, without an end of the roll: what is pending is to be finished as if the web ended."""

    camera: str
    roll: str


@dataclass(frozen=True)
class Hello(Message):
    """Asks acquire for its frames: as the one worker (a lease), or as an observer that takes what it can."""

    camera: str
    peer: str
    role: Literal["worker", "observer"]


@dataclass(frozen=True)
class Grant(Message):
    """The lease: it ends where `lease_s` pass without a Credit."""

    camera: str
    epoch: int
    lease_s: float


@dataclass(frozen=True)
class Refused(Message):
    """No, and why; `retry_s` is when asking again may help, None: never."""

    camera: str
    reason: str
    retry_s: float | None


@dataclass(frozen=True)
class Revoked(Message):
    camera: str
    epoch: int
    reason: str


@dataclass(frozen=True)
class Credit(Message):
    """Renews the lease, asks for `frames` more, and tells how far the journal is.

    The last four are of the last journaled Progress; `roll` is empty where there is none.
    """

    camera: str
    epoch: int
    frames: int
    roll: str
    inspected_up_to: int
    resume_from: int
    ended: bool


# ------------------------------------------------------------------------------------------ with the publisher


@dataclass(frozen=True)
class Resume(Message):
    """A worker asks where its camera's inspection stands; with an epoch it takes over, and older ones are shut out."""

    camera: str
    epoch: int | None


@dataclass(frozen=True)
class Resumed(Message):
    """Where it stands: the last roll as a worker announced it, its last journaled Progress, and whether it is over."""

    camera: str
    epoch: int | None
    roll: RollStart | None
    progress: Progress | None
    ended: bool


@dataclass(frozen=True)
class Ack(Message):
    """What was sent under `epoch` up to and with `sequence` is in the journal."""

    camera: str
    epoch: int
    sequence: int


@dataclass(frozen=True)
class Prepare(Message):
    """The worker is to have that recipe ready beside the one it inspects with; empty: none. Asked until it is answered.

    `number` names the request: one with another number reads the recipe anew.
    """

    camera: str
    recipe: str
    number: int


@dataclass(frozen=True)
class Prepared(Message):
    """The recipe is loaded, warm, and its model sees its reference defect; else `reason` says why not."""

    camera: str
    recipe: str
    number: int
    reason: str


@dataclass(frozen=True)
class Register(Message):
    """Acquire has its camera and asks which roll runs; a replay names the roll that it wants, others leave it empty."""

    camera: str
    replay: str


@dataclass(frozen=True)
class Registered(Message):
    """Which roll runs and how far it is; `roll` is empty between rolls.

    `generation` counts registrations of this camera; `started` says that the roll's RollStart of this camera is in
    the journal. The origin is of the roll's line 0 where one was kept. The rest is of the last journaled progress: the
    times are of the last line that had come then, on the boot with that id. `left` is why the acquire before stopped,
    empty where it did not say. `unfinished` is an earlier roll whose end this camera still owes; the progress is of
    that one then, and so is the origin unless the roll that runs has one.
    """

    camera: str
    generation: int
    roll: str
    recipe: str
    replayed: bool
    started: bool
    origin: Origin | None
    inspected_up_to: int
    lines_scanned: int
    progress_monotonic_ns: int
    progress_utc_ns: int
    boot: str
    left: Literal["", "shutdown", "camera-lost"]
    unfinished: str


@dataclass(frozen=True)
class Origin(Message):
    """Line 0 of a roll under one camera: its encoder count and time, on the boot with that id."""

    camera: str
    roll: str
    encoder_count: int | None
    monotonic_ns: int
    utc_ns: int
    boot: str


@dataclass(frozen=True)
class Latched(Message):
    """A sync pulse latched the camera's counter at that count; `number` counts the pulses that acquire saw.

    It was seen at that monotonic time, on the boot with that id: what waited in a socket is of an older pulse.
    """

    camera: str
    number: int
    encoder_count: int
    monotonic_ns: int
    boot: str


@dataclass(frozen=True)
class Kept(Message):
    """The Origin of that roll is in the journal."""

    camera: str
    roll: str


@dataclass(frozen=True)
class Leaving(Message):
    """Acquire stops, and says why, so that its successor can name the gap; answered by Kept of an empty roll."""

    camera: str
    cause: Literal["shutdown", "camera-lost"]


@dataclass(frozen=True)
class RollCommand(Message):
    """From an operator to the publisher, and from it to every acquire.

    `roll` is empty where it is to be named, `recipe` where it is to be the one that line.toml names.
    """

    action: Literal["start", "end", "status"]
    roll: str
    recipe: str


@dataclass(frozen=True)
class Preparing(Message):
    """The roll starts when these cameras' workers have its recipe ready; said again and again until then."""

    recipe: str
    cameras: tuple[str, ...]


@dataclass(frozen=True)
class Order(Message):
    """What an operator wants of the rejects; answered by Done or Refused.

    `lane` is empty where it is all of them; `about` and `text` are a verdict's: which event, and what was said.
    """

    action: Literal["bypass-on", "bypass-off", "splice", "test-reject", "acknowledge", "verdict", "status"]
    lane: str
    about: str
    text: str


@dataclass(frozen=True)
class Done(Message):
    """It was done; what there is to say about it."""

    text: str


@dataclass(frozen=True)
class RollState(Message):
    """The roll that runs (empty: none), and for each camera how far it is, in the order of `cameras`."""

    roll: str
    recipe: str
    cameras: tuple[str, ...]
    inspected_up_to: tuple[int, ...]


@dataclass(frozen=True)
class Status(Message):
    """A stage's heartbeat: `state` in a word, faults in words, counters by name."""

    stage: Literal["acquire", "worker", "publisher", "recorder"]
    camera: str
    state: str
    faults: tuple[str, ...]
    counters: dict[str, int]
    monotonic_ns: int


# ------------------------------------------------------------------------------------------ to the world


@dataclass(frozen=True)
class Published(Message):
    """An event on its way to subscribers: `event` is an encoded message of the events' stream.

    `run` is the journal's UUID and `sequence` its row; None while the disk is full: then it is not `durable` yet and
    comes again with a row. (camera, epoch, origin) name it for ever. `needed_ns` as in its Stamp.
    """

    run: str
    sequence: int | None
    durable: bool
    camera: str
    epoch: int
    origin: int
    utc_ns: int
    needed_ns: int
    replayed: bool
    event: bytes


@dataclass(frozen=True)
class Since(Message):
    """Asks for at most `limit` events after `sequence` of that run (empty: whatever run it is)."""

    run: str
    sequence: int
    limit: int


@dataclass(frozen=True)
class Caught(Message):
    """Ends an answer to Since: the journal's run, its last and its oldest sequence, and how far the answer went."""

    run: str
    last: int
    oldest: int
    up_to: int


Event = RollStart | RollEnd | Gap | Region | Reject | Notice

TYPES: dict[str, type[Message]] = {
    "frame": Frame,
    "gap": Gap,
    "roll_start": RollStart,
    "roll_end": RollEnd,
    "progress": Progress,
    "region": Region,
    "reject": Reject,
    "notice": Notice,
    "stamp": Stamp,
    "stream_end": StreamEnd,
    "hello": Hello,
    "grant": Grant,
    "refused": Refused,
    "revoked": Revoked,
    "credit": Credit,
    "resume": Resume,
    "resumed": Resumed,
    "ack": Ack,
    "prepare": Prepare,
    "prepared": Prepared,
    "register": Register,
    "registered": Registered,
    "origin": Origin,
    "latched": Latched,
    "kept": Kept,
    "leaving": Leaving,
    "roll_command": RollCommand,
    "roll_state": RollState,
    "preparing": Preparing,
    "order": Order,
    "done": Done,
    "status": Status,
    "published": Published,
    "since": Since,
    "caught": Caught,
}
