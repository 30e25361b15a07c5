"""`fcd arena export` and `import`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import BinaryIO

from fcd.cli.access import running_client
from fcd.cli.arena_query import query_of
from fcd.cli.output import note, print_json
from fcd.errors import EXIT_FAILED, EXIT_OK, FcdError
from fcd.wire.arena import ImportReport

_PART_BYTES = 8 * 1024 * 1024


async def export(args: argparse.Namespace) -> int:
    query = query_of(args)
    async with running_client() as client, aclosing(client.arena_export(args.format, query)) as pieces:
        if args.output == "-":
            async for piece in pieces:
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
            return EXIT_OK
        target = Path(args.output)
        unfinished = target.with_name(f"{target.name}.part")
        size = 0
        with unfinished.open("wb") as file:
            async for piece in pieces:
                size += file.write(piece)
        unfinished.replace(target)
    note(f"Wrote {size} bytes to {target}.")
    return EXIT_OK


async def take_in(args: argparse.Namespace) -> int:
    total = ImportReport(0, 0, 0)
    async with running_client() as client:
        for name in args.files:
            with _open(name) as file:
                for part in parts_of(file):
                    _add(total, await client.arena_import(part, args.format))
                    if sys.stderr.isatty():
                        note(f"{total.added} taken in, {total.duplicates} known already, {total.refused} refused...")
    if args.json:
        print_json(total)
    else:
        print(f"{total.added} votes taken in, {total.duplicates} known already, {total.refused} refused.")
        for reason, count in sorted(total.reasons.items(), key=lambda item: -item[1]):
            print(f"  {count} {reason}")
    return EXIT_OK if total.added or total.duplicates else EXIT_FAILED


def parts_of(file: BinaryIO) -> Iterator[bytes]:
    """The file in parts that one request can hold, cut between lines; an array is turned into lines first."""
    head = file.read(1024)
    if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"["):
        yield from _parts_of_array(head + file.read())
        return
    part = head + file.readline()
    while part:
        more = file.read(max(0, _PART_BYTES - len(part)))
        yield part + more + (file.readline() if more else b"")
        part = file.readline()


def _parts_of_array(data: bytes) -> Iterator[bytes]:
    import msgspec

    try:
        records = msgspec.json.decode(data.lstrip(b"\xef\xbb\xbf"), type=list[msgspec.Raw])
    except msgspec.DecodeError as error:
        raise FcdError(f"The file is not valid JSON: {error}") from None
    part = bytearray()
    for record in records:
        part += b" ".join(bytes(record).splitlines()) + b"\n"
        if len(part) >= _PART_BYTES:
            yield bytes(part)
            part.clear()
    if part:
        yield bytes(part)


def _open(name: str) -> BinaryIO:
    if name == "-":
        return sys.stdin.buffer
    try:
        return Path(name).open("rb")
    except OSError as error:
        raise FcdError(f"{name} cannot be read: {error.strerror or error}") from None


def _add(total: ImportReport, part: ImportReport) -> None:
    total.added += part.added
    total.duplicates += part.duplicates
    total.refused += part.refused
    for reason, count in part.reasons.items():
        total.reasons[reason] = total.reasons.get(reason, 0) + count
