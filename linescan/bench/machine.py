"""What a figure must be read with: machine, versions, commit."""

from __future__ import annotations

import platform
import resource
import subprocess
from pathlib import Path

import numpy as np
import torch

import linescan

MIB = float(1 << 20)


def machine() -> dict[str, str]:
    """Names and versions, as text."""
    return {
        "cpu": str(torch.cpu.get_capabilities().get("cpu_name", platform.processor())),
        "cores": str(torch.get_num_threads()),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "linescan": linescan.__version__,
        "commit": commit(),
    }


def commit() -> str:
    """The commit of the source tree that runs, "-dirty" where files differ from it; "unknown" where it is no such tree.

    An installed package has no commit, and the tree may belong to somebody whom git does not trust.
    """
    root = Path(linescan.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return "unknown"
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return said.stdout.strip()


def peak_mib() -> float:
    """The most resident memory that this process ever had, MiB."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    # ru_maxrss goes on from what the process was before it became this program: that of the one that started it
    return round(int(status.split("VmHWM:")[1].split()[0]) / 1024, 1)


def resident_mib() -> float:
    """Resident memory of this process now, MiB; its peak where the system does not tell (outside Linux)."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return peak_mib()
    return round(pages * resource.getpagesize() / MIB, 1)
