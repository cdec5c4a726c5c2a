"""Who may speak on a socket that is a group's: the system says whose process the other end of an ipc connection is."""

from __future__ import annotations

import grp
import os
import pwd

ROOT = 0


def may_speak(address: str, group: str) -> bool:
    """Whether the peer is of that group, of this process's user, or root; all may where there is no such group.

    `address` is "name:uid:gid:pid", as libzmq takes it from the kernel (SO_PEERCRED). The kernel names one group of the
    process, so the group's list of members counts too, as it is now.
    """
    try:
        wanted = grp.getgrnam(group)
    except KeyError:
        return True  # a desk: the folder's mode is all there is
    fields = address.rsplit(":", 3)
    if len(fields) != 4 or not all(field.isdecimal() for field in fields[1:]):
        return False
    uid, gid = int(fields[1]), int(fields[2])
    return uid in (ROOT, os.geteuid()) or gid == wanted.gr_gid or _name(uid) in wanted.gr_mem


def _name(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None
