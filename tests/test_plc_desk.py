"""The reference PLC's standard input: a pipe is covered by plc_rig, here is what else it may be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from pymodbus.client import ModbusTcpClient

from tests.plc_rig import PLC, free_port


def plc(port: int, stdin: Any) -> subprocess.Popen[str]:
    command = [sys.executable, str(PLC / "plc.py"), "--port", str(port)]
    return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_without_a_standard_input_it_serves_on(tmp_path: Path) -> None:
    port = free_port()
    process = plc(port, subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        client = ModbusTcpClient("127.0.0.1", port=port, timeout=5)
        assert client.connect()
        beats = {client.read_holding_registers(802, count=1).registers[0] for _ in range(200)}
        client.close()
        assert len(beats) > 1, "its program stands"
        assert process.poll() is None
    finally:
        process.kill()
        _, said = process.communicate()
    assert said == ""


def test_commands_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "commands").write_text("enable 0\nquit\n", encoding="utf-8")
    with (tmp_path / "commands").open() as commands:
        process = plc(free_port(), commands)
    said, complained = process.communicate(timeout=60)
    assert (process.returncode, complained) == (0, "")
    assert said.splitlines()[0] == "listening"
    assert len(said.splitlines()) == 2, "an answer a command, and none to quit"
