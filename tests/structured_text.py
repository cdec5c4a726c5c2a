"""Runs the Structured Text of docs/plc.md: as much of IEC 61131-3 as that program uses, translated into Python.

Variables wrap as their types do. A statement that is not understood raises, so that nothing is passed over.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

DOCUMENT = Path(__file__).parents[1] / "docs" / "plc.md"
BITS = {"UINT": 16, "WORD": 16, "UDINT": 32}


class Timer:
    """TON: Q once IN was true for PT."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        self._namespace = namespace
        self._since: int | None = None
        self.Q = False

    def __call__(self, IN: bool, PT: int = 0) -> None:  # noqa: N803 its names
        now = self._namespace["now_ns"]
        self._since = (now if self._since is None else self._since) if IN else None
        self.Q = self._since is not None and now - self._since > PT


def signed(value: int) -> int:
    return ((value + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)


def expression(text: str) -> str:
    """One of ST as one of Python; bitwise where the right side is a bit string."""
    text = re.sub(r"T#(\d+)ms", r"(\1 * 1000000)", text).replace("WORD#", "")
    text = re.sub(r"\bAND (?=16#|Bit\b)", "& ", text)
    text = re.sub(r"\bOR (?=16#)", "| ", text)
    text = re.sub(r"\bNOT (?=\(R\[)", "~", text).replace(" XOR ", " ^ ")
    text = text.replace("16#", "0x").replace(" / ", " // ").replace(" MOD ", " % ")
    text = re.sub(r"(?<![<>:=])=(?!=)", "==", text).replace("<>", "!=")
    for word in ("AND", "OR", "NOT", "TRUE", "FALSE"):
        text = re.sub(rf"\b{word}\b", word.capitalize() if word in ("TRUE", "FALSE") else word.lower(), text)
    return text


def statement(text: str, types: dict[str, str]) -> tuple[str, int, int]:  # noqa: PLR0911 one a kind
    """(Python, change of indentation before, after)."""
    if match := re.fullmatch(r"(IF|ELSIF) (.+) THEN", text):
        return f"{'el' * (match[1] == 'ELSIF')}if {expression(match[2])}:", -(match[1] == "ELSIF"), 1
    if text == "ELSE":
        return "else:", -1, 1
    if match := re.fullmatch(r"WHILE (.+) DO", text):
        return f"while {expression(match[1])}:", 0, 1
    if match := re.fullmatch(r"FOR (\w+) := (.+) TO (.+) DO", text):
        return f"for {match[1]} in range({expression(match[2])}, {expression(match[3])} + 1):", 0, 1
    if text in ("END_IF", "END_FOR", "END_WHILE"):
        return "pass", 0, -1
    if match := re.fullmatch(r"(\w+)\((.+)\);", text):
        return f"{match[1]}({expression(match[2].replace(':=', '~~')).replace('~~', '=')})", 0, 0
    match = re.fullmatch(r"([\w.]+(?:\[[^\]]+\])?(?:\.\w+)?) := (.+);", text)
    assert match, f"not understood: {text}"
    kind = types[re.sub(r"\[[^\]]+\]", "", match[1])]
    value = expression(match[2])
    return f"{match[1]} = {f'({value}) & {(1 << BITS[kind]) - 1}' if kind in BITS else value}", 0, 0


def statements(source: str) -> list[str]:
    source = re.sub(r"\(\*.*?\*\)", "", source, flags=re.DOTALL)
    pieces = re.split(r"(?<=;)|(?<=\bTHEN\b)|(?<=\bDO\b)|(?<=\bELSE\b)|(?<=END_IF)|(?<=END_FOR)|(?<=END_WHILE)", source)
    return [" ".join(piece.split()) for piece in pieces if piece.strip()]


def declarations(source: str) -> dict[str, str]:
    """Name → type, of arrays their elements'."""
    found = {}
    for names, kind in re.findall(r"^ +(\w+(?:, \w+)*) *: *(?:ARRAY\[[\d.]+\] OF )?(\w+)", source, re.MULTILINE):
        found.update(dict.fromkeys(names.split(", "), kind))
    return found


class StProgram:
    """The program on the page, with other constants; its state is its variables."""

    def __init__(self, **constants: int) -> None:
        text = re.search(r"```iecst\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
        assert text
        row, program = (
            re.search(r"STRUCT\n(.*?)END_STRUCT", text[1], re.DOTALL),
            text[1].partition("PROGRAM LINESCAN\n")[2],
        )
        assert row
        head, _, body = program.rpartition("END_VAR\n")
        types = declarations(head) | {f"Table.{name}": kind for name, kind in declarations(row[1]).items()}
        self.variables = self._initial(head, types, constants)
        lines, depth = [], 0
        for piece in statements(body.partition("END_PROGRAM")[0]):
            line, before, after = statement(piece, types)
            lines.append("    " * (depth + before) + line)
            depth += before + after
        assert depth == 0
        self._code = compile("\n".join(lines), str(DOCUMENT), "exec")

    def _initial(self, head: str, types: dict[str, str], constants: dict[str, int]) -> dict[str, Any]:
        variables: dict[str, Any] = {name: False if kind == "BOOL" else 0 for name, kind in types.items()}
        for name, value in re.findall(r"(\w+) *: *\w+ *:= *(\d+);", head):
            variables[name] = constants.get(name, int(value))
        for names, last, kind in re.findall(r"^ +(\w+(?:, \w+)*) *: *ARRAY\[0\.\.(\d+)\] OF (\w+)", head, re.MULTILINE):
            for name in names.split(", "):
                variables[name] = [False if kind == "BOOL" else 0 for _ in range(int(last) + 1)]
        variables["Table"] = [SimpleNamespace(Used=False, Outputs=0, First=0, Last=0) for _ in variables["Table"]]
        variables["Stale"] = Timer(variables)
        for name in ("WORD_TO_UINT", "UINT_TO_WORD", "WORD_TO_UDINT", "UINT_TO_INT", "UDINT_TO_WORD"):
            variables[name] = lambda value: value
        variables["UDINT_TO_DINT"] = signed
        variables["LS_U32"] = lambda high, low: high << 16 | low
        variables["ROL"] = lambda value, by: (value << by | value >> (16 - by)) & 0xFFFF
        variables["SHL"] = lambda value, by: value << by & 0xFFFF
        return variables

    @property
    def registers(self) -> list[int]:
        found: list[int] = self.variables["R"]
        return found

    def scan(self, position: int, now_ns: int, enable: bool) -> list[bool]:
        self.variables.update(Position=position, now_ns=now_ns, Enable=enable)
        exec(self._code, self.variables)
        return list(self.variables["Pass"])
