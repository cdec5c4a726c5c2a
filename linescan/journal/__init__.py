"""The publisher's event store."""

from linescan.journal.journal import EXPIRE_ROWS, Journal
from linescan.journal.records import CameraState, Entry, Mark, RunningRoll

__all__ = ["EXPIRE_ROWS", "CameraState", "Entry", "Journal", "Mark", "RunningRoll"]
