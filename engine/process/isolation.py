"""What separates a process from others: a child that ends with its parent, and isolation for
programs of strangers.

All processes of the platform run as one user of the machine, who may by default read the memory and
the environment of each, secrets included. Two things prevent it:

* `seal`, for the platform's own processes: their environment is blanked where others can see it,
  and the kernel lets no process without privileges look into them (man 2 prctl, PR_SET_DUMPABLE).
* `confine`, for processes that run or read what strangers wrote: a Landlock domain (Linux 5.19, man
  7 landlock), out of which nobody can look into, or trace, a process outside; and no capability
  with which root could do so all the same.

Linux only; elsewhere these do nothing.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38

# The same on all architectures, <asm-generic/unistd.h>.
SYS_LANDLOCK_CREATE_RULESET = 444
SYS_LANDLOCK_ADD_RULE = 445
SYS_LANDLOCK_RESTRICT_SELF = 446
LANDLOCK_CREATE_RULESET_VERSION = 1
LANDLOCK_RULE_PATH_BENEATH = 1
# A domain must forbid something. Nothing here ever creates block devices.
LANDLOCK_ACCESS_FS_MAKE_BLOCK = 1 << 11
# Renames between folders, which every domain forbids that does not allow them, from version 2 on.
LANDLOCK_ACCESS_FS_REFER = 1 << 13
# Signals to processes outside, from version 6 on (Linux 6.12).
LANDLOCK_SCOPE_SIGNAL = 1 << 1

PR_CAPBSET_DROP = 24
CAPABILITY_VERSION = 0x20080522
# CAP_SYS_PTRACE, CAP_SYS_ADMIN and CAP_PERFMON: each lets root look into other processes in spite of
# Landlock.
INSPECTING_CAPABILITIES = (19, 21, 38)

IS_LINUX = sys.platform == "linux"


def die_with_parent(parent: int, sign: signal.Signals) -> None:
    """Have the kernel send `sign` to this process when `parent` ends; end at once if it has ended
    already.

    Without it the train of a killed worker would run on, beside its own retry. On systems other than
    Linux only the attempt number keeps such a train from writing."""
    if not IS_LINUX:
        return

    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(sign), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def confine() -> bool:
    """Keep this process and all its descendants from the memory and environment of every other
    process.

    Returns whether the kernel has Landlock. It cannot be undone, and may be done again.
    """
    if not IS_LINUX:
        return False

    library = ctypes.CDLL(None, use_errno=True)
    # The kernel demands it for Landlock; and root would regain its capabilities with the next program
    # that it starts.
    library.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _drop_capabilities(library)

    return _enter_domain(library)


def _drop_capabilities(library: ctypes.CDLL) -> None:
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    # Effective, permitted and inheritable of the first 32 capabilities, then of the others.
    sets = (ctypes.c_uint32 * 6)()
    if library.capget(header, sets) != 0:
        return

    for capability in INSPECTING_CAPABILITIES:
        library.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
        half, bit = divmod(capability, 32)
        for kind in range(3):
            sets[3 * half + kind] &= ~(1 << bit)

    library.capset(header, sets)


def _enter_domain(library: ctypes.CDLL) -> bool:
    version = library.syscall(SYS_LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_CREATE_RULESET_VERSION)
    if version < 2:
        return False

    # struct landlock_ruleset_attr: handled_access_fs, handled_access_net, scoped. Older kernels
    # know the first only.
    handled = LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_REFER
    attributes = struct.pack("=QQQ", handled, 0, LANDLOCK_SCOPE_SIGNAL)
    ruleset = library.syscall(
        SYS_LANDLOCK_CREATE_RULESET, attributes, len(attributes) if version >= 6 else 8, 0
    )
    if ruleset < 0:
        return False

    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        # struct landlock_path_beneath_attr: allowed_access, parent_fd.
        rule = struct.pack("=Qi", LANDLOCK_ACCESS_FS_REFER, root)
        library.syscall(SYS_LANDLOCK_ADD_RULE, ruleset, LANDLOCK_RULE_PATH_BENEATH, rule, 0)
        return bool(library.syscall(SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(root)
        os.close(ruleset)


def seal(shown: Callable[[str], bool]) -> None:
    """Hide this process from others of the same user. Variables for which `shown` holds stay
    visible in /proc.

    os.environ and what libraries read with getenv() stay as they are.
    """
    if not IS_LINUX:
        return

    _blank_environment(shown)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def _blank_environment(shown: Callable[[str], bool]) -> None:
    """Write stars over the values in the block that the kernel shows as /proc/PID/environ."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        # Fields 50 and 51 of man 5 proc_pid_stat; the split begins at the third.
        start, end = int(fields[47]), int(fields[48])
    except (OSError, ValueError, IndexError):
        return

    if not start or end <= start:
        return

    # Values that the C library reads must not be the ones that are about to be blanked.
    for name, value in os.environ.items():
        os.putenv(name, value)

    position = start
    for entry in ctypes.string_at(start, end - start).split(b"\0"):
        key, _, content = entry.partition(b"=")
        if content and not shown(key.decode("utf-8", "replace")):
            ctypes.memset(position + len(key) + 1, ord("*"), len(content))

        position += len(entry) + 1
