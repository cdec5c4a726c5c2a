"""A systemd of its own, booted in a container tree, with linescan installed as on a line; fake stages for its units."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATIENCE_S = 120.0  # how long a test waits for what takes seconds on a quiet machine

# in the place of linescan: behaves as a stage does and writes down what happens to it; argv: the stage, the camera
FAKE = """
import os, signal, stat, sys, time
from pathlib import Path
sys.path.insert(0, "/opt/linescan/src")
from linescan.health import Health

stage = "@".join(sys.argv[1:3])

def say(event):
    with open("/run/linescan/private/log", "a") as file:
        file.write(f"{stage} {event}\\n")

def stop(number, frame):
    say("asked")
    health.stopping()
    time.sleep(0.5)
    say("drained")
    sys.exit(0)

signal.signal(signal.SIGTERM, stop)
health = Health()
say("started")
code = Path("/etc/linescan/exit")
if code.exists() and code.read_text().startswith(stage + " "):
    sys.exit(int(code.read_text().split()[1]))
time.sleep(0.5)
credentials = sorted(Path(os.environ.get("CREDENTIALS_DIRECTORY", "/nowhere")).glob("*"))
say("has " + " ".join(f"{path.name}={path.read_text()}" for path in credentials))
if stage == "publisher":
    import socket
    served = socket.socket(socket.AF_UNIX)
    Path("/run/linescan/public/events").unlink(missing_ok=True)
    served.bind("/run/linescan/public/events")
    served.listen()
say("ready")
health.ready("there")
while True:
    health.turn()
    time.sleep(0.05)
"""

LINESCAN = """#!/opt/linescan/bin/python
import sys
sys.path.insert(0, "/opt/linescan/src")
from linescan.cli.main import main
sys.exit(main())
"""


class Container:
    """A systemd of its own in build/systemd-root; nothing of what happens in it stays."""

    def __init__(self, folder: Path, tree: Path) -> None:
        self.folder = folder
        self._lay_out()
        self._lock = tree.with_name(tree.name + ".lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # two containers would share their control groups
        base, packages = Path(sys.base_prefix), sysconfig.get_path("platlib")
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        binds = [f"{folder}/opt:/opt", f"{base}:/opt/python", f"{ROOT}:/opt/linescan/src",
                 f"{packages}:/opt/linescan/lib/{version}/site-packages"]  # fmt: skip
        command = ["systemd-nspawn", "--boot", f"--directory={tree}", "--volatile=overlay", "--register=no",
                   f"--machine=linescan-{os.getpid()}", "--keep-unit", "--private-network", "--console=pipe",
                   *(f"--bind-ro={bind}" for bind in binds), f"--bind={folder}/etc:/etc/linescan"]  # fmt: skip
        # a /run of its own, so that the one of this machine has no part in it
        script = 'mount --make-rprivate / && mount -t tmpfs tmpfs /run && exec "$@"'
        self._console = (folder / "console").open("w+")
        self._nspawn = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "bash", "-c", script, "-", *command],
            stdin=subprocess.DEVNULL, stdout=self._console, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._leader: str | None = None
        self.wait_for(self._booted, "the container's systemd")

    def _lay_out(self) -> None:
        """/opt and /etc/linescan as on a line; mount points are empty folders."""
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        home = self.folder / "opt/linescan"
        for path in ("bin", "src", f"lib/{version}/site-packages", "../python", "../../etc"):
            (home / path).mkdir(parents=True)
        (home / "pyvenv.cfg").write_text("home = /opt/python/bin\ninclude-system-site-packages = false\n")
        (home / "bin/python").symlink_to(f"/opt/python/bin/{version}")
        for name, text in (("linescan", LINESCAN), ("fake", "#!/opt/linescan/bin/python\n" + FAKE)):
            (home / "bin" / name).write_text(text)
            (home / "bin" / name).chmod(0o755)

    def _booted(self) -> bool:
        assert self._nspawn.poll() is None, self.console()
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        self._leader = children[0] if children else None
        return self._leader is not None and self.run("systemctl", "is-system-running", check=False) == "running"

    def run(self, *command: str, check: bool = True, stdin: str = "") -> str:
        """What the command says, without the last line break."""
        assert self._leader is not None
        done = subprocess.run(
            ["nsenter", "--target", self._leader, *("--mount", "--uts", "--ipc", "--net", "--pid"), *command],
            input=stdin, capture_output=True, text=True, check=False, timeout=PATIENCE_S * 2,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{self.journal()}"
        return (done.stdout + done.stderr).rstrip("\n")

    def write(self, path: str, text: str) -> None:
        self.run("bash", "-c", f"mkdir -p {Path(path).parent} && cat > {path}", stdin=text)

    def property(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", "--value", f"--property={name}", unit)

    def console(self) -> str:
        self._console.seek(0)
        return self._console.read()

    def journal(self) -> str:
        """The latest that the units said."""
        if self._leader is None:
            return ""
        return self.run("journalctl", "--boot", "--no-pager", "--lines=60", "--unit=linescan-*", check=False)

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < until, f"waited for {what}:\n{self.console()}\n{self.journal()}"
            time.sleep(0.1)

    def close(self) -> None:
        if self._leader is not None and self._nspawn.poll() is None:
            self.run("systemctl", "poweroff", check=False)
        try:
            self._nspawn.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()
        self._console.close()
        remove_control_groups()
        self._lock.close()


def remove_control_groups() -> None:
    """What nspawn leaves under our own control group; left in one hierarchy only, they would stop the next boot."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, name, path = line.split(":", 2)
        mounts = {"": ["unified", "."]}.get(name, [name.removeprefix("name=")])
        for mount in mounts:
            for group in ("payload", "supervisor"):
                top = Path("/sys/fs/cgroup") / mount / path.strip("/") / group
                for folder, _, _ in os.walk(top, topdown=False):
                    remove_empty(folder)


def remove_empty(folder: str) -> None:
    """A control group stays busy for a moment after its last process."""
    until = time.monotonic() + 5
    while True:
        try:
            os.rmdir(folder)
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
