"""What all relays share: the connections to workers."""

from __future__ import annotations

from sanic.response import HTTPResponse

from daemon.context import DaemonContext
from daemon.gateway.fastchat.peer import Peers
from daemon.gateway.outlet import Outlet
from daemon.gateway.relay import Order, Relay
from daemon.gateway.upstream import UpstreamPool


class Relays:
    """Relays orders over one pool of connections, which closes with the server."""

    def __init__(self, context: DaemonContext) -> None:
        self.context = context
        self._pool, self._peers = UpstreamPool(), Peers()
        context.closers.append(self._close)

    async def send(self, outlet: Outlet, order: Order) -> HTTPResponse | None:
        """An answer to send, or None when it was written to the outlet."""
        return await Relay(self.context, self._pool, outlet, order, self._peers).run()

    async def _close(self) -> None:
        self._pool.close()
