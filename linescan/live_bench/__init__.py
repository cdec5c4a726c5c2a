"""linescan bench --live: the transport beside a bare loop, the camera at full speed, the line's memory over time."""
