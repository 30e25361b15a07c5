"""API keys and join tokens in the database. Only their digests are kept."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import sqlite3
from typing import Literal

import msgspec

from fcd.errors import NotFound
from fcd.wire.access import CredentialInfo

Kind = Literal["key", "token"]
Scope = Literal["inference", "admin", "join"]

_PREFIX = {"key": "fcd-k", "token": "fcd-j"}
_ID_BYTES = 4
_SECRET_BYTES = 32


class Credential(msgspec.Struct, frozen=True):
    """One row: what a presented secret is compared with."""

    info: CredentialInfo
    kind: Kind
    scope: Scope
    digest: bytes

    def matches(self, secret: str, now: float) -> bool:
        """Whether `secret` is this one's, compared in constant time, and still good at `now` (Unix seconds)."""
        same = hmac.compare_digest(digest_of(secret), self.digest)
        return same and (self.info.expires_at == 0 or now < self.info.expires_at)


def digest_of(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def id_of(secret: str) -> str:
    """The public part of a key or token, such as `k3f1a2b4c`, or an empty string when it has not that form."""
    parts = secret.split("-", 3)
    return f"{parts[1]}{parts[2]}" if len(parts) == 4 and parts[0] == "fcd" else ""


def create(
    connection: sqlite3.Connection, kind: Kind, *, name: str, scope: Scope, now: float, ttl_s: float = 0.0
) -> tuple[str, CredentialInfo]:
    """Make one; the secret is returned here and never again."""
    public = secrets.token_hex(_ID_BYTES)
    secret = f"{_PREFIX[kind]}-{public}-{secrets.token_urlsafe(_SECRET_BYTES)}"
    expires = now + ttl_s if ttl_s else 0.0
    info = CredentialInfo(id_of(secret), name, scope, now, expires)
    connection.execute(
        "INSERT INTO credentials (id, kind, name, scope, digest, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (info.id, kind, name, scope, digest_of(secret), now, expires),
    )
    return secret, info


def load(connection: sqlite3.Connection, kind: Kind | None = None) -> list[Credential]:
    """Those not revoked, oldest first."""
    rows = connection.execute(
        "SELECT id, kind, name, scope, digest, created_at, expires_at FROM credentials"
        " WHERE revoked_at = 0 AND (? IS NULL OR kind = ?) ORDER BY created_at, id",
        (kind, kind),
    )
    return [Credential(CredentialInfo(row[0], row[2], row[3], row[5], row[6]), row[1], row[3], row[4]) for row in rows]


def revoke(connection: sqlite3.Connection, kind: Kind, wanted: str, now: float) -> CredentialInfo:
    """Revoke the one with this id, or the only one with this name.

    Raises:
        NotFound: there is none, or the name stands for several.
    """
    found = [each.info for each in load(connection, kind) if wanted in (each.info.id, each.info.name)]
    exact = [info for info in found if info.id == wanted]
    chosen = exact or found
    if len(chosen) != 1:
        several = f"'{wanted}' is the name of {len(chosen)} of them; give an id." if chosen else ""
        raise NotFound(several or f"There is no {kind} '{wanted}'.", hint=f"`fcd {kind} list` shows them.")
    connection.execute("UPDATE credentials SET revoked_at = ? WHERE id = ?", (now, chosen[0].id))
    return chosen[0]
