"""The URL by which a controller reaches this worker."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from daemon.access import is_loopback
from daemon.worker.options import WorkerOptions
from fcd.errors import FcdError

_EVERYWHERE = ("0.0.0.0", "::", "")


def announced_address(options: WorkerOptions, port: int) -> str:
    """--worker-address as it was given, else worked out from where it listens and where the controllers are.

    Raises:
        FcdError: a controller on another machine could not reach this worker; the hint names the flags.
    """
    if options.address:
        return options.address
    # A worker that a daemon started is on its machine, whatever address that daemon listens on.
    elsewhere = () if options.worker_id else options.controllers
    remote = next((host for host in map(_host_of, elsewhere) if not is_loopback(host)), "")
    if options.host in _EVERYWHERE:
        return url_for(own_address(remote) if remote else "127.0.0.1", port)
    if remote and is_loopback(options.host):
        raise FcdError(
            f"The controller is on {remote}, which cannot reach this worker: it listens on {options.host}.",
            hint="Give --host 0.0.0.0 (or an address of this machine), and --worker-address URL if it is behind NAT.",
        )
    return url_for(options.host, port)


def listening_host(controllers: Sequence[str]) -> str:
    """Where a worker listens that was not told: where its controllers reach it, and nowhere else.

    Raises:
        FcdError: there is no way from here to a controller.
    """
    remote = next((host for host in map(_host_of, controllers) if not is_loopback(host)), "")
    return own_address(remote) if remote else "127.0.0.1"


def _host_of(url: str) -> str:
    return urlsplit(url).hostname or ""


def own_address(remote: str) -> str:
    """This machine's address on the way to `remote`; nothing is sent."""
    try:
        family = socket.getaddrinfo(remote, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family[0], socket.SOCK_DGRAM) as probe:
            probe.connect(family[4])
            return str(probe.getsockname()[0])
    except OSError as error:
        raise FcdError(
            f"This machine's address towards {remote} could not be worked out: {error}.",
            hint="Give it with --worker-address http://ADDRESS:PORT.",
        ) from error


def url_for(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
