"""linescan finds defects it was never shown on a moving web, and says in time where they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from linescan.subscriber import Events

__version__ = "0.1.0"


def subscribe(config: str | Path, since: int | None = None, **told: Any) -> Events:
    """The events of a running line, each once and in order; see `linescan.subscriber.subscribe`."""
    from linescan.subscriber import subscribe as subscribe_to  # zmq is not loaded by those who only import linescan

    return subscribe_to(config, since, **told)
