"""The inspection engine: pure computation on lines; no files, no sockets, no clock."""

from linescan.inspection.inspector import FinalBand, Finding, Inspector
from linescan.inspection.placement import Footprint

__all__ = ["FinalBand", "Finding", "Footprint", "Inspector"]
