"""Opening the worker's TCP port and its unix socket."""

from __future__ import annotations

import os
import socket
import stat

from fcd.errors import FcdError

_BACKLOG = 1024


def bind_unix(path: str) -> socket.socket:
    """A listening socket that only this user's processes can open. What a dead worker left there is replaced.

    Raises:
        FcdError: the path is too long, in use, or not a socket's.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_dead(path)
        before = os.umask(0o177)
        try:
            sock.bind(path)
        finally:
            os.umask(before)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise FcdError(f"The socket {path} cannot be opened: {error.strerror or error}.") from error
    return sock


def _remove_dead(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FcdError(f"{path} exists and is not a socket.")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        else:
            raise FcdError(f"Another process listens on {path}.")


def bind_tcp(host: str, port: int) -> socket.socket:
    """A listening port; 0 takes a free one.

    Raises:
        FcdError: the port is taken or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
        except OSError:
            sock.close()
            raise
        sock.listen(_BACKLOG)
    except OSError as error:
        raise FcdError(
            f"Port {port} on {host} cannot be opened: {error.strerror or error}.",
            hint="Choose another with --port, or --port 0 for any that is free.",
        ) from error
    return sock
