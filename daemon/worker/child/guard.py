"""Runs a command in a process group of its own and ends all that came of it when its starter is gone, however that
ended, and when the command itself has ended.

Started as `python guard.py open|private COMMAND...` with a pipe on stdin that the starter holds open; `private` keeps
the files and sockets that the command makes to this user. Imports little, since it lives
as long as the command does. A signal to the group reaches the command; the guard itself waits for the command's end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

_PASSED_OVER = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
_CANNOT_START = 127
_LINUX = sys.platform.startswith("linux")
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_SWEEP_S = 5.0


def main() -> int:
    for name in _PASSED_OVER:
        # A handler, since a signal that is ignored stays so in the command.
        signal.signal(getattr(signal, name), lambda *_: None)
    # What loses its parent becomes ours, so that nothing gets away by leaving the group.
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    mode, *command = sys.argv[1:]
    if mode == "private":
        os.umask(0o077)
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_guard)
    except OSError as error:
        print(f"{command[0]} cannot be started: {error.strerror}", file=sys.stderr, flush=True)
        return _CANNOT_START
    threading.Thread(target=_watch, daemon=True).start()
    code = child.wait()
    _sweep()
    return code if code >= 0 else 128 - code


def _watch() -> None:
    """Wait for the end of stdin, which is the starter's, then end everything."""
    try:
        while os.read(0, 4096):
            pass
    except OSError:
        pass
    _sweep()
    os.killpg(0, signal.SIGKILL)


def _sweep() -> None:
    """End what descends from this process, again until nothing does: one look misses what was being started."""
    until = time.monotonic() + _SWEEP_S
    while (left := _descendants()) and time.monotonic() < until:
        for pid in left:
            _kill(pid)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.02)


def _descendants() -> list[int]:
    """On Linux, those that descend from this process; elsewhere none are known, and the group alone is ended."""
    if not _LINUX:
        return []
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue
    found: list[int] = []
    known = {os.getpid()}
    while fresh := [pid for pid, parent in parents.items() if parent in known and pid not in known]:
        known.update(fresh)
        found += fresh
    return found


def _kill(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)


def _die_with_guard() -> None:
    """On Linux the kernel ends the command when the guard is killed, too."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if _LINUX:
        import ctypes

        ctypes.CDLL(None).prctl(option, value)


if __name__ == "__main__":
    sys.exit(main())
