"""How a cluster's nodes reach this daemon: pure, over addresses that were looked up elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from urllib.parse import urlsplit

from daemon.access import is_loopback
from daemon.cluster.messages import AgentError, Node
from daemon.worker.address import own_address, url_for

_EVERYWHERE = ("0.0.0.0", "::", "")


def controller_url(
    own_url: str,
    listens_on: str,
    nodes: Sequence[Node],
    own_addresses: Collection[str],
    towards: Callable[[str], str] = own_address,
) -> str:
    """The URL at which workers on the nodes register.

    Args:
        own_url: how this machine reaches the daemon.
        towards: this machine's address on the way to another.

    Raises:
        AgentError: it listens on loopback only, and a node is another machine.
    """
    elsewhere = [node for node in nodes if not is_loopback(node.address) and node.address not in own_addresses]
    if is_loopback(listens_on):
        if not elsewhere:
            return own_url
        raise AgentError(
            f"The node {elsewhere[0].address} could not reach this daemon, which listens on {listens_on} only.",
            hint="Let it listen on an address that the nodes reach: `fcd key create`, then "
            "`fcd daemon restart --host 0.0.0.0`.",
            code="not_reachable",
        )
    if listens_on not in _EVERYWHERE or not elsewhere:
        return own_url
    return url_for(towards(elsewhere[0].address), urlsplit(own_url).port or 80)
