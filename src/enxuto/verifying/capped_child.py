"""Start a command under a memory limit and report how it ended; run by path, it needs the standard library alone.

It stands between `caps` and the command for two reasons. Only the command may count against the limit, so what
enters the group is a fork of this small process. And the kernel hands a process's resident peak on from its
parent at exec: started from a process that holds a model, a command would seem to have held it too.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(report: int, group: str, data_limit: int, command: list[str]) -> None:
    """Run the command and write one line of JSON to `report`, a file descriptor that the command does not get.

    Args:
        report: receives `returncode` (negative: the signal) and `resident_peak` in bytes, or `refused`, the
            reason for which the limit could not be set; the command has then not run.
        group: the `cgroup.procs` file of a memory cgroup to enter, or nothing.
        data_limit: RLIMIT_DATA in bytes, 0 for none.
        command: program and arguments, looked for on PATH.
    """
    os.set_inheritable(report, False)
    _end_with_parent()
    child = os.fork()
    if child == 0:
        _become(report, group, data_limit, command)
    _, status, usage = os.wait4(child, 0)
    end = {"returncode": os.waitstatus_to_exitcode(status), "resident_peak": usage.ru_maxrss * 1024}
    os.write(report, json.dumps(end).encode() + b"\n")
    if os.getpgrp() == os.getpid():  # the session is ours: nothing that the command left behind outlives it
        os.killpg(0, signal.SIGKILL)


def _become(report: int, group: str, data_limit: int, command: list[str]) -> None:
    """Take the limit on and turn into the command; never returns."""
    try:
        _end_with_parent()
        if group:
            with open(group, "w") as procs:
                procs.write("0")  # the kernel reads 0 as "whoever writes this"
        if data_limit:
            resource.setrlimit(resource.RLIMIT_DATA, (data_limit, data_limit))
    except (OSError, ValueError, OverflowError) as error:
        os.write(report, json.dumps({"refused": str(error)}).encode() + b"\n")
        os._exit(126)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
        os._exit(127)


def _end_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends, however that comes about; Linux alone can."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:])
