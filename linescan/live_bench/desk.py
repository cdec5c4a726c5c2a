"""A line of one camera in a folder that goes away, for measuring."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from linescan.line import Line

CAMERA = "bench"


def toml(table: Mapping[str, Any]) -> str:
    """Keys and values as TOML; strings, numbers and truth values are written alike in JSON."""
    return "".join(f"{json.dumps(key)} = {json.dumps(value)}\n" for key, value in table.items())


@contextmanager
def bench_line(
    camera: Mapping[str, Any],
    *,
    recipe: str = "none.toml",
    features: Mapping[str, Any] | None = None,
    transport: Mapping[str, Any] | None = None,
    tables: Mapping[str, Mapping[str, Any]] | None = None,
) -> Iterator[Line]:
    """A Line with everything it keeps in a temporary folder; `tables` are further ones of line.toml."""
    with tempfile.TemporaryDirectory(prefix="linescan-") as name:
        folder = Path(name)
        text = toml({"name": CAMERA, "recipe": recipe})
        text += "[transport]\n" + toml({"directory": f"{folder}/run", **(transport or {})})
        text += "[journal]\n" + toml({"file": f"{folder}/journal.sqlite"})
        for title, table in (tables or {}).items():
            text += f"[{title}]\n" + toml(table)
        text += "[[cameras]]\n" + toml({"name": CAMERA, **camera})
        if features:
            text += "[cameras.features]\n" + toml(features)
        path = folder / "line.toml"
        path.write_text(text, encoding="utf-8")
        yield Line(path)
