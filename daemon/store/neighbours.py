"""Attached servers and joined daemons in the database."""

from __future__ import annotations

import sqlite3

import msgspec


class Attachment(msgspec.Struct, frozen=True):
    """A server that is used as a worker."""

    name: str
    url: str
    api_key: str
    names: dict[str, str]
    """Name here to name there."""
    vision: bool = False
    """Whether its models see images."""


class JoinedHead(msgspec.Struct, frozen=True):
    """A daemon that this one registers at."""

    url: str
    token: str


def attachments(connection: sqlite3.Connection) -> list[Attachment]:
    """Oldest first."""
    rows = connection.execute("SELECT name, url, api_key, names, vision FROM attachments ORDER BY attached_at, name")
    return [
        Attachment(row[0], row[1], row[2], msgspec.json.decode(row[3], type=dict[str, str]), bool(row[4]))
        for row in rows
    ]


def save_attachment(connection: sqlite3.Connection, attachment: Attachment, now: float) -> None:
    """Enter it; one of the same name or URL is replaced."""
    connection.execute("DELETE FROM attachments WHERE url = ? AND name != ?", (attachment.url, attachment.name))
    connection.execute(
        "INSERT OR REPLACE INTO attachments (name, url, api_key, names, vision, attached_at) VALUES (?, ?, ?, ?, ?, ?)",
        (
            attachment.name,
            attachment.url,
            attachment.api_key,
            msgspec.json.encode(attachment.names).decode(),
            attachment.vision,
            now,
        ),
    )


def delete_attachment(connection: sqlite3.Connection, name: str) -> bool:
    """Whether there was one."""
    return connection.execute("DELETE FROM attachments WHERE name = ?", (name,)).rowcount > 0


def heads(connection: sqlite3.Connection) -> list[JoinedHead]:
    """Oldest first."""
    rows = connection.execute("SELECT url, token FROM heads ORDER BY joined_at, url")
    return [JoinedHead(*row) for row in rows]


def save_head(connection: sqlite3.Connection, head: JoinedHead, now: float) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO heads (url, token, joined_at) VALUES (?, ?, ?)", (head.url, head.token, now)
    )


def delete_head(connection: sqlite3.Connection, url: str) -> bool:
    """Whether there was one."""
    return connection.execute("DELETE FROM heads WHERE url = ?", (url,)).rowcount > 0
