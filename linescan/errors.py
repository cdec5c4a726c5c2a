"""Every exception that linescan raises on purpose, with the exit code of the command that dies of it.

LinescanError
├── ConfigError         2   an argument or a configuration value cannot be used
├── InputError         65   an input file is missing, unreadable or not what was expected
│   ├── FootageError        footage or an image set
│   └── BundleError         a model bundle
├── MessageError       65   bytes that are no message of ours
├── PeerError          69   another stage, a device or the disk is missing or refuses
│   └── JournalFullError    the disk has no room for the journal; it may have later
├── CameraError        69   the camera is not there, or refuses a setting
├── CameraLostError    75   the camera was there and is gone; a supervisor starts again
├── DeviceLostError    70   the GPU or its driver is gone in the middle of the work; a replacement goes on
├── TrainingError      70   training went wrong: no movement, mirrored optimum, not finite
└── InspectionError    70   the engine was used against its contract
"""

from __future__ import annotations


class LinescanError(Exception):
    """Base of all: its text names the file or value, what was found and what was expected."""

    exit_code = 70


class ConfigError(LinescanError):
    exit_code = 2


class InputError(LinescanError):
    exit_code = 65


class FootageError(InputError):
    pass


class BundleError(InputError):
    pass


class MessageError(LinescanError):
    exit_code = 65


class PeerError(LinescanError):
    exit_code = 69


class JournalFullError(PeerError):
    """Nothing was written, and the same call may succeed later."""


class CameraError(LinescanError):
    exit_code = 69


class CameraLostError(LinescanError):
    exit_code = 75


class DeviceLostError(LinescanError):
    exit_code = 70


class TrainingError(LinescanError):
    exit_code = 70


class InspectionError(LinescanError):
    exit_code = 70
