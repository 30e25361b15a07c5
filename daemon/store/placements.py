"""Workers that a cluster runs for this daemon, in the database."""

from __future__ import annotations

import sqlite3

import msgspec


class Need(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one worker reserves on a node."""

    cpus: int = 1
    gpus: int = 0
    memory: int = 0
    """Bytes of RAM; 0 reserves none."""
    vram_mib: int = 0
    """GPU memory in MiB, of nodes that say how much they have; 0 does not ask."""


class Placement(msgspec.Struct, frozen=True):
    """One worker that is to run on a cluster. It holds no secret: of its join token, only the id."""

    name: str
    cluster: str
    """As it was given: `ray`, or `ray://HEAD:PORT`."""
    actor: str
    """What the cluster calls it, and the reservation that it runs in."""
    models: tuple[str, ...]
    """The names that requests call it by."""
    arguments: tuple[str, ...]
    """Of `fcd worker run`, without where it registers and listens."""
    need: Need
    """Of the whole, also where it is spread over several nodes."""
    spreads: bool = False
    """Whether it can be, where no node has what it needs."""
    nodes: int = 1
    """Over how many it is to be, as the cluster was when it was last asked."""
    token_id: str = ""
    leaving: bool = False
    """It was stopped, and the cluster has not confirmed that nothing of it is left."""


def placements(connection: sqlite3.Connection) -> list[Placement]:
    """Oldest first."""
    rows = connection.execute("SELECT placement FROM placements ORDER BY placed_at, name")
    return [msgspec.json.decode(row[0], type=Placement) for row in rows]


def save_placement(connection: sqlite3.Connection, placement: Placement, now: float) -> None:
    """Enter it, or what it has become; its place in the order stays."""
    connection.execute(
        "INSERT INTO placements (name, cluster, placement, placed_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (name) DO UPDATE SET cluster = excluded.cluster, placement = excluded.placement",
        (placement.name, placement.cluster, msgspec.json.encode(placement).decode(), now),
    )


def delete_placement(connection: sqlite3.Connection, name: str) -> bool:
    """Whether there was one."""
    return connection.execute("DELETE FROM placements WHERE name = ?", (name,)).rowcount > 0
