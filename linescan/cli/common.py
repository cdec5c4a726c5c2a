"""What the commands share: arguments that return twice, and errors as one line and an exit code."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from linescan.errors import DeviceLostError, LinescanError, PeerError

INTERRUPTED = 130  # as a shell reports SIGINT


def guarded(name: str, command: Callable[[], int]) -> int:
    """Runs a command; what linescan raises on purpose becomes one line on stderr and its exit code."""
    try:
        with _warnings_in_one_line(name):
            code = command()
        sys.stdout.flush()  # here, where it can still be said what went wrong
        return code
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        mute()
        return 0
    except OSError as error:  # what the system refuses, like more room on the disk
        print(f"{name}: error: {error.filename or 'files'}: {error.strerror or error}", file=sys.stderr)
        return LinescanError.exit_code
    except Exception as error:
        told = error if isinstance(error, LinescanError) else _of_a_device(error)
        if told is None:  # a fault of ours: all of it is said, with the exit code that supervisors know
            traceback.print_exc()
            return LinescanError.exit_code
        print(f"{name}: error: {told}", file=sys.stderr)
        return told.exit_code


@contextmanager
def _warnings_in_one_line(name: str) -> Iterator[None]:
    before, warnings.formatwarning = warnings.formatwarning, lambda said, *_, **__: f"{name}: warning: {said}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def _of_a_device(error: Exception) -> LinescanError | None:
    """What an error of torch says of the GPU, where it does."""
    if "torch" not in sys.modules or not isinstance(error, RuntimeError):
        return None
    from linescan.models.device import OutOfMemory, device_lost  # without a GPU nobody waits for torch

    said = (str(error).splitlines() or [""])[0]
    if isinstance(error, OutOfMemory):
        return PeerError(f"the GPU has too little memory: {said}; a smaller --batch needs less")
    return DeviceLostError(f"the GPU or its driver is gone: {said}") if device_lost(error) else None


def mute() -> None:
    """The reader of our output went away: that is no error, but nothing more can be said."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def stopped_by_interrupt() -> Iterator[threading.Event]:
    """Ctrl-C within sets the event instead of breaking off in the middle of a frame; a second one breaks off."""
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            signal.default_int_handler(number, frame)
        stop.set()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


class Help(argparse.HelpFormatter):
    """Adds the default to the help of each option that has one worth saying and does not say it itself."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text, default = action.help, action.default
        if not text or "default" in text or not action.option_strings or default == argparse.SUPPRESS:
            return text
        if default is None or isinstance(default, bool) or default in ("", ()):
            return text
        words = default if isinstance(default, list | tuple) else (default,)
        shown = " ".join(f"{word:g}" if isinstance(word, float) else str(word) for word in words)
        return f"{text} (default: {shown.replace('%', '%%')})"


def columns(text: str) -> tuple[int, int | None]:
    """A:B, A: or :B; None at the end is the last column."""
    first, separator, end = text.partition(":")
    try:
        bounds = int(first or 0), int(end) if end else None
    except ValueError:
        bounds = (-1, None)
    if not separator or bounds[0] < 0 or (bounds[1] is not None and bounds[1] <= bounds[0]):
        raise argparse.ArgumentTypeError(f"{text!r}: columns are given as A:B with 0 <= A < B, or A: to the last one")
    return bounds


def closed(bounds: tuple[int, int | None] | None, width: int) -> tuple[int, int] | None:
    """Columns with the end filled in from the footage's width."""
    return None if bounds is None else (bounds[0], bounds[1] if bounds[1] is not None else width)


def add_model_arguments(parser: argparse.ArgumentParser, makes_recipe: bool = False) -> None:
    parser.add_argument("--model", type=Path, metavar="M.pt", required=makes_recipe, help="the model bundle")
    if not makes_recipe:
        parser.add_argument("--recipe", type=Path, metavar="R.toml", help="the product's recipe; it names a bundle too")
        parser.add_argument("--threshold", type=float, metavar="T", help="score above which a pixel is defective")
    parser.add_argument("--stride", type=int, metavar="N", help="distance of the patches (default: the bundle's)")
    parser.add_argument("--columns", type=columns, metavar="A:B", help="inspect columns A…B−1 only")


def add_execution_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", choices=("cpu", "cuda", "openvino"), help="default: a GPU where there is one; openvino: a CPU by it"
    )
    parser.add_argument(
        "--precision", choices=("auto", "float32", "bfloat16", "float16", "int8"), default="auto",
        help="int8: with --device openvino, after `linescan quantise`",
    )  # fmt: skip
    parser.add_argument("--batch", type=int, metavar="N", help="patches a forward (default: measured at start)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores)")
