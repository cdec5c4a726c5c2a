"""Who waits for a line says so: a command that shows nothing looks as if it worked."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

SILENT_S = 3.0


def note(text: str) -> None:
    """A line on stderr, beside a progress bar where there is one."""
    tqdm.write(f"note: {text}", file=sys.stderr)
    sys.stderr.flush()


class Silence:
    """Tells that somebody does not answer, once each time that has lasted SILENT_S; and that it does again.

    Args:
        missing: what is told then, as "nobody answers at ipc://…".
        back: what is told when it has ended.
    """

    def __init__(
        self,
        missing: str,
        back: str,
        tell: Callable[[str], None] = note,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._missing, self._back, self._tell, self._clock = missing, back, tell, clock_s
        self._since = clock_s()
        self._told = False

    def look(self, heard: bool) -> None:
        """Call it several times a second; `heard`: somebody was there since the last call."""
        now = self._clock()
        if heard:
            self._since = now
            if self._told:
                self._told = False
                self._tell(self._back)
        elif not self._told and now - self._since > SILENT_S:
            self._told = True
            self._tell(self._missing)
