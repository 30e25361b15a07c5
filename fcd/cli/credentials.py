"""What `fcd key` and `fcd token` share: they ask the running daemon, or write the database when none runs."""

from __future__ import annotations

import json
import time
from typing import Any, Literal

import msgspec

from fcd.errors import EXIT_OK, FcdError
from fcd.instance import lock_is_held, running_instance
from fcd.paths import Paths, resolve_paths
from fcd.settings import parse_duration
from fcd.wire.access import CreatedCredential, CredentialInfo, CredentialList

Kind = Literal["key", "token"]

NEVER = "never"


def ttl_seconds(text: str) -> float:
    """`30d` in seconds; `never` is 0.

    Raises:
        ConfigError: not a duration.
    """
    if text == NEVER:
        return 0.0
    seconds = parse_duration(text)
    if not 0 < seconds < 10**10:
        raise FcdError(f"'{text}' is not a time to live.", hint="Write 1h, 30d, or never.")
    return seconds


async def create(kind: Kind, *, name: str, scope: str, ttl_s: float) -> CreatedCredential:
    paths = resolve_paths()
    if _daemon_runs(paths):
        body: dict[str, Any] = {"name": name, "ttl_s": ttl_s} | ({"scope": scope} if kind == "key" else {})
        return msgspec.convert(await _ask("POST", f"/api/{kind}s", body), CreatedCredential)
    from daemon.store import credentials

    def work(db: Any) -> tuple[str, CredentialInfo]:
        return credentials.create(db, kind, name=name, scope=scope, now=time.time(), ttl_s=ttl_s)  # type: ignore[arg-type]

    return CreatedCredential(*_in_database(paths, work))


async def listed(kind: Kind) -> list[CredentialInfo]:
    paths = resolve_paths()
    if _daemon_runs(paths):
        return msgspec.convert(await _ask("GET", f"/api/{kind}s"), CredentialList).credentials
    from daemon.store import credentials

    found: list[CredentialInfo] = _in_database(paths, lambda db: [each.info for each in credentials.load(db, kind)])
    return found


async def revoke(kind: Kind, wanted: str) -> CredentialInfo:
    """Raises NotFound."""
    from urllib.parse import quote

    paths = resolve_paths()
    if _daemon_runs(paths):
        return msgspec.convert(await _ask("DELETE", f"/api/{kind}s/{quote(wanted, safe='')}"), CredentialInfo)
    from daemon.store import credentials

    gone: CredentialInfo = _in_database(paths, lambda db: credentials.revoke(db, kind, wanted, time.time()))
    return gone


def print_created(made: CreatedCredential, *, as_json: bool, advice: str) -> int:
    if as_json:
        print(msgspec.json.encode(made).decode())
        return EXIT_OK
    print(made.secret)
    import sys

    print(f"This is shown once: keep it. {advice}", file=sys.stderr)
    return EXIT_OK


def print_list(found: list[CredentialInfo], *, as_json: bool, none: str) -> int:
    if as_json:
        print(json.dumps(msgspec.to_builtins(found)))
        return EXIT_OK
    if not found:
        print(none)
        return EXIT_OK
    rows = [("ID", "SCOPE", "CREATED", "EXPIRES", "NAME")]
    rows += [(each.id, each.scope, _day(each.created_at), _day(each.expires_at), each.name) for each in found]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row[:4], widths, strict=True)]
        print("  ".join([*cells, row[4]]).rstrip())
    return EXIT_OK


def _day(stamp: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(stamp)) if stamp else NEVER


def _daemon_runs(paths: Paths) -> bool:
    """Raises FcdError while one starts or stops: a key made now might not be seen by it."""
    if running_instance(paths) is not None:
        return True
    if lock_is_held(paths):
        raise FcdError("A daemon is starting or stopping here.", hint="Try again in a moment.")
    return False


async def _ask(method: str, path: str, body: Any = None) -> Any:
    """Ask this machine's own daemon, with its admin token: FCD_URL and FCD_API_KEY may point elsewhere."""
    from fcd.client import Client, find_daemon

    async with Client(find_daemon(environ={}, paths=resolve_paths())) as client:
        return await client.json(method, path, body)


def _in_database(paths: Paths, work: Any) -> Any:
    from daemon.store.database import open_database
    from daemon.store.store import in_transaction

    connection = open_database(paths.database)
    try:
        return in_transaction(connection, work)
    finally:
        connection.close()
