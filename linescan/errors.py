"""Every exception that linescan raises on purpose, with the exit code of the command that dies of it.

LinescanError
├── ConfigError         2   an argument or a configuration value cannot be used
├── InputError         65   an input file is missing, unreadable or not what was expected
│   ├── FootageError        footage or an image set
│   └── BundleError         a model bundle
├── MessageError       65   bytes that are no message of ours
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


class TrainingError(LinescanError):
    exit_code = 70


class InspectionError(LinescanError):
    exit_code = 70
