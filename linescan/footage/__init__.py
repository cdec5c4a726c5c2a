"""Recorded footage: image files, TIFF stacks, video and MCAP recordings, read as frames in order."""

from linescan.footage.frames import Footage, FootageFrame
from linescan.footage.images import write_image
from linescan.footage.mcap import McapWriter
from linescan.footage.mcap_footage import McapFootage
from linescan.footage.sources import open_footage

__all__ = ["Footage", "FootageFrame", "McapFootage", "McapWriter", "open_footage", "write_image"]
