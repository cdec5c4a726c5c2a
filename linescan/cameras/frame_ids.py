"""What the numbers of the frames say about frames that did not come."""

from __future__ import annotations

from linescan.errors import CameraLostError


class FrameIds:
    """Counts the frames missing between those that came, once each.

    `skips_zero`: ids of GigE Vision, where 65535 is followed by 1; else 0 follows. Ids that never went beyond 16 or
    32 bits are taken to wrap there.
    """

    def __init__(self, skips_zero: bool) -> None:
        self._skips_zero = skips_zero
        self._last: int | None = None
        self._announced = 0

    def announce(self, frames: int) -> None:
        """Frames known to be lost since the last one that came: the next jump contains them."""
        self._announced += frames

    def missing(self, frame_id: int) -> int:
        """Frames lost before this one and not yet announced; those before the first one are not knowable.

        Raises CameraLostError where the ids run backwards: the camera began anew, and nobody knows how much is lost.
        """
        last, self._last = self._last, frame_id
        announced, self._announced = self._announced, 0
        if last is None:
            return 0
        if frame_id == 0:
            self._skips_zero = False
        if frame_id > last:
            return max(frame_id - last - 1 - announced, 0)
        cycle = self._cycle(last)
        step = (frame_id - last) % cycle
        if step == 0 or step > cycle // 2 or last >= 1 << 32:
            raise CameraLostError(f"frame id {frame_id} after {last}: the camera began to count anew")
        return max(step - 1 - announced, 0)

    def _cycle(self, last: int) -> int:
        if last < 1 << 16:
            return (1 << 16) - 1 if self._skips_zero else 1 << 16
        return 1 << 32
