"""Runs a command in a process group of its own and ends that group when its starter is gone, however that ended.

Started as `python guard.py COMMAND...` with a pipe on stdin that the starter holds open. Imports little, since it lives
as long as the command does. A signal to the group reaches the command; the guard itself waits for the command's end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

_PASSED_OVER = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
_CANNOT_START = 127


def main() -> int:
    for name in _PASSED_OVER:
        # A handler, since a signal that is ignored stays so in the command.
        signal.signal(getattr(signal, name), lambda *_: None)
    try:
        child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, preexec_fn=_die_with_guard)
    except OSError as error:
        print(f"{sys.argv[1]} cannot be started: {error.strerror}", file=sys.stderr, flush=True)
        return _CANNOT_START
    threading.Thread(target=_watch, daemon=True).start()
    code = child.wait()
    return code if code >= 0 else 128 - code


def _watch() -> None:
    """Wait for the end of stdin, which is the starter's, then end everything."""
    try:
        while os.read(0, 4096):
            pass
    except OSError:
        pass
    os.killpg(0, signal.SIGKILL)


def _die_with_guard() -> None:
    """On Linux the kernel ends the command when the guard is killed, too."""
    if sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
