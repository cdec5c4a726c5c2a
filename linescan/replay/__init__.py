"""Recorded footage through the engine, with what it found written beside."""

from linescan.replay.roll import RollResult, inspect_roll
from linescan.replay.session import Replay

__all__ = ["Replay", "RollResult", "inspect_roll"]
