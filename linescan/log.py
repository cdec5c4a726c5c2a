"""Logs of the stages: one line an event on stderr, JSON where nobody watches."""

from __future__ import annotations

import sys
import warnings

import structlog


def configure(stage: str, camera: str = "") -> structlog.typing.FilteringBoundLogger:
    """The logger of this process; its lines name stage and camera."""
    watched = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer() if watched else structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),  # one write a line: stages share stderr
    )
    bound = {"stage": stage} | ({"camera": camera} if camera else {})
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(**bound)
    # a library's or our own warning, where it is raised far from any logger
    warnings.showwarning = lambda said, kind, *_: logger.warning("warning", kind=kind.__name__, said=str(said))
    return logger
