"""Who may speak on a group's socket: by what the kernel says of the process at the other end."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from linescan.messages import Message, Refused, RollCommand
from linescan.transport.operators import may_speak
from linescan.transport.zeromq import ZmqNetwork

GROUP, GID = "linescan-operate", 54321
NOBODY = 65534
STATUS = RollCommand("status", "", "")

# asks as somebody else, and prints the answer
CLIENT = """
import os, sys, time
endpoint, uid, gid = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
from linescan.messages import RollCommand
from linescan.transport.zeromq import ZmqNetwork
network = ZmqNetwork()
os.setgroups([])
os.setgid(gid)
os.setuid(uid)
link = network.client(endpoint)
link.send(RollCommand("status", "", ""))
network.wait((link,), 10)
received = link.receive()
print(received.message if received else "no answer")
network.close()
"""


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The group is there, with these members beside those whose own group it is."""
    members: list[str] = []

    def known(name: str) -> grp.struct_group:
        if name != GROUP:
            raise KeyError(name)
        return grp.struct_group((GROUP, "x", GID, members))

    monkeypatch.setattr(grp, "getgrnam", known)
    return members


def test_root_and_the_line_s_own_user_may(group: list[str]) -> None:
    assert may_speak("localhost:0:7:1", GROUP)
    assert may_speak(f"localhost:{os.geteuid()}:7:1", GROUP)


def test_members_may_and_others_may_not(group: list[str]) -> None:
    assert may_speak(f"localhost:{NOBODY}:{GID}:1", GROUP)
    assert not may_speak(f"localhost:{NOBODY}:{GID + 1}:1", GROUP)
    assert not may_speak("localhost:4000000000:7:1", GROUP)  # no such user
    group.append(pwd.getpwuid(NOBODY).pw_name)
    assert may_speak(f"localhost:{NOBODY}:7:1", GROUP)


@pytest.mark.parametrize("address", ["", "None", "127.0.0.1", "::1", "localhost:0", "localhost:0:0:-1", "localhost:::"])
def test_an_address_without_credentials_may_not(group: list[str], address: str) -> None:
    assert not may_speak(address, GROUP)


def test_where_there_is_no_such_group_the_folder_s_mode_is_all() -> None:
    assert may_speak(f"localhost:{NOBODY}:7:1", "no-such-group-as-this")


@pytest.fixture
def network() -> Iterator[ZmqNetwork]:
    made = ZmqNetwork()
    yield made
    made.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can speak as somebody else")
@pytest.mark.parametrize("gid", [GID, GID + 1])
def test_what_others_ask_is_refused(network: ZmqNetwork, tmp_path: Path, group: list[str], gid: int) -> None:
    folder = Path("/tmp") / f"linescan-operators-{os.getpid()}-{gid}"  # pytest's own folders are closed to others
    folder.mkdir()
    try:
        server = network.server(f"ipc://{folder}/control", group=GROUP)
        folder.chmod(0o755)
        (folder / "control").chmod(0o777)
        client = subprocess.Popen(
            [sys.executable, "-c", CLIENT, f"ipc://{folder}/control", str(NOBODY), str(gid)], stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        heard: list[Message] = []
        while client.poll() is None:
            network.wait((server,), 0.05)
            if received := server.receive():
                heard.append(received.message)
                server.send(received.peer, Refused("", "heard", None))
            time.sleep(0.001)
        said = client.communicate()[0]
    finally:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    if gid == GID:
        assert heard == [STATUS]
        assert "reason='heard'" in said
    else:
        assert heard == []
        assert f"only members of the group {GROUP} may ask this" in said
        assert server.counters == {"not_allowed": 1}
