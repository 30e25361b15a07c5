"""`fcd chats`: the conversations that the daemon keeps."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fcd.cli.command import Group, Parser, add_json, run_subcommand
from fcd.cli.model_flags import positive
from fcd.errors import EXIT_FAILED, EXIT_OK, FcdError, NotFound, UsageError

if TYPE_CHECKING:
    from fcd.client import Client
    from fcd.wire.chats import ChatImportReport, ChatInfo

run = run_subcommand

_FORMATS = ("markdown", "json", "sharegpt", "fastchat")
_TAKEN = ("auto", "chatgpt", "sharegpt", "fastchat", "json", "fcd-chat")
_PAGE = 1000
_LAST = "last"

EXAMPLES = """examples:
  fcd chats search otters river             chats in which both words were said
  fcd chats show last                       the chat that was added to last
  fcd chats export --format sharegpt -o training.json
  fcd chats import conversations.json       what ChatGPT exports"""


def add_arguments(parser: Parser) -> None:
    parser.epilog = EXAMPLES
    group = Group(parser)
    listed = group.add("list", "list the chats, pinned and latest first", _list)
    listed.add_argument("--limit", type=positive, default=50, metavar="N", help="default: 50")
    listed.add_argument("--deleted", action="store_true", help="those that can still be restored")
    add_json(listed)
    show = group.add("show", "print a chat as Markdown", _show, epilog=_ids())
    show.add_argument("chat", metavar="ID", help="which one, or `last`")
    add_json(show)
    search = group.add("search", "find chats by what was said", _search)
    search.add_argument("words", nargs="+", metavar="WORDS", help="all of them must be in one message")
    search.add_argument("--limit", type=positive, default=20, metavar="N", help="default: 20")
    add_json(search)
    out = group.add("export", "write chats to a file", _export, epilog=_ids())
    out.add_argument("chats", nargs="*", metavar="ID", help="which ones (default: all)")
    out.add_argument("--format", choices=_FORMATS, default="markdown", help="default: markdown; json holds everything")
    out.add_argument("-o", "--output", default="-", metavar="FILE", help="default: standard output")
    into = group.add("import", "take in chats of fcd, ChatGPT, ShareGPT and FastChat; known ones come once", _import)
    into.add_argument("files", nargs="+", metavar="FILE", help="JSON or JSON lines; - is standard input")
    into.add_argument("--format", choices=_TAKEN, default="auto", help="default: auto")
    add_json(into)
    remove = group.add("rm", "delete chats; they can be restored for a month", _remove, epilog=_ids())
    remove.add_argument("chats", nargs="+", metavar="ID", help="which ones, or `last`")
    add_json(remove)
    restore = group.add("restore", "take a deletion back", _restore)
    restore.add_argument("chats", nargs="+", metavar="ID", help="`fcd chats list --deleted` shows them")
    add_json(restore)


def _ids() -> str:
    return "ID may be the beginning of one, if no other chat begins so."


async def _list(args: argparse.Namespace) -> int:
    from fcd.cli.access import running_client
    from fcd.cli.output import print_json

    async with running_client() as client:
        found = await client.chats(min(args.limit, _PAGE), deleted=args.deleted)
        while len(found.chats) < min(args.limit, found.total):
            most = min(args.limit - len(found.chats), _PAGE)
            more = await client.chats(most, len(found.chats), deleted=args.deleted)
            if not more.chats:
                break
            found.chats += more.chats
    if args.json:
        print_json(found)
        return EXIT_OK
    print(_rows(found.chats) or ("There are no deleted chats." if args.deleted else "There are no chats yet."))
    if found.total > len(found.chats):
        print(f"{len(found.chats)} of {found.total}; --limit shows more.")
    return EXIT_OK


async def _show(args: argparse.Namespace) -> int:
    from fcd.cli.access import running_client
    from fcd.cli.output import print_json, printable

    async with running_client() as client:
        chat = await _resolve(client, args.chat)
        if args.json:
            print_json(await client.chat_tree(chat))
            return EXIT_OK
        pieces = [piece async for piece in client.export_chats("markdown", [chat])]
    text = b"".join(pieces).decode("utf-8", "replace")
    print(printable(text) if sys.stdout.isatty() else text)
    return EXIT_OK


async def _search(args: argparse.Namespace) -> int:
    from fcd.cli.access import running_client
    from fcd.cli.output import print_json, printable, table

    async with running_client() as client:
        found = await client.search_chats(" ".join(args.words), min(args.limit, 500))
    if args.json:
        print_json(found)
        return EXIT_OK if found.hits else EXIT_FAILED
    rows = [
        (hit.chat.id, _when(hit.chat.updated_at), printable(hit.chat.title)[:30], printable(hit.excerpt)[:100])
        for hit in found.hits
    ]
    print(table(("ID", "CHANGED", "TITLE", "WHERE"), rows) or "No chat has all of these words in one message.")
    return EXIT_OK if rows else EXIT_FAILED


async def _export(args: argparse.Namespace) -> int:
    from fcd.cli.access import running_client
    from fcd.cli.output import note

    async with running_client() as client:
        chats = [await _resolve(client, chat) for chat in args.chats]
        data = b"".join([piece async for piece in client.export_chats(args.format, chats)])
    if args.output == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return EXIT_OK
    from fcd.chatlog import write_atomically

    write_atomically(Path(args.output), data)
    note(f"Wrote {len(data)} bytes to {args.output}.")
    return EXIT_OK


async def _import(args: argparse.Namespace) -> int:
    from fcd.cli.access import running_client
    from fcd.cli.output import print_json
    from fcd.wire.chats import ChatImportReport

    total = ChatImportReport()
    async with running_client(timeout_s=600) as client:
        for name in args.files:
            for part in parts_of(_read(name)):
                _add(total, await client.import_chats(part, args.format))
    if args.json:
        print_json(total)
    else:
        print(f"{total.added} chats taken in, {total.duplicates} known already, {total.refused} refused.")
        for reason, count in sorted(total.reasons.items(), key=lambda item: -item[1]):
            print(f"  {count} {reason}")
    return EXIT_OK if total.added or total.duplicates else EXIT_FAILED


async def _remove(args: argparse.Namespace) -> int:
    from fcd.cli.access import running_client

    async with running_client() as client:
        chats = [await _resolve(client, chat) for chat in args.chats]
        removed = [await client.delete_chat(chat) for chat in chats]
    return _tell(args, removed, "Deleted", "`fcd chats restore ID` takes it back, for a month.")


async def _restore(args: argparse.Namespace) -> int:
    from fcd.cli.access import running_client

    async with running_client() as client:
        chats = [await _resolve(client, chat, deleted=True) for chat in args.chats]
        restored = [await client.restore_chat(chat) for chat in chats]
    return _tell(args, restored, "Restored", "")


def _tell(args: argparse.Namespace, chats: list[ChatInfo], done: str, hint: str) -> int:
    from fcd.cli.output import note, print_json, printable

    if args.json:
        print_json({"chats": chats})
        return EXIT_OK
    for info in chats:
        print(f"{done} {info.id}  {printable(info.title)}")
    if hint:
        note(hint)
    return EXIT_OK


async def _resolve(client: Client, wanted: str, *, deleted: bool = False) -> str:
    """The id that `wanted` is, or is the beginning of.

    Raises:
        NotFound: there is none.
        UsageError: there are several.
    """
    found = await client.chats(_PAGE, deleted=deleted)
    if wanted == _LAST and found.chats and not deleted:
        return max(found.chats, key=lambda info: info.updated_at).id
    offset = len(found.chats)
    ids = [info.id for info in found.chats]
    while wanted not in ids and offset < found.total:
        more = await client.chats(_PAGE, offset, deleted=deleted)
        if not more.chats:
            break
        ids += [info.id for info in more.chats]
        offset += len(more.chats)
    near = [each for each in ids if each.startswith(wanted)]
    if wanted in ids or len(near) == 1:
        return wanted if wanted in ids else near[0]
    if near:
        raise UsageError(f"{len(near)} chats begin with '{wanted}': {', '.join(near[:5])}.")
    kind = "deleted chat" if deleted else "chat"
    raise NotFound(f"There is no {kind} '{wanted}'.", hint="`fcd chats list` shows them.")


def parts_of(data: bytes, most: int = 8 * 1024 * 1024) -> list[str]:
    """The file in parts that one request can hold; only lists and JSON lines can be cut."""
    if len(data) <= most:
        return [_text(data)]
    import msgspec

    stripped = data.lstrip(b"\xef\xbb\xbf \r\n\t")
    try:
        if stripped.startswith(b"["):
            records = [bytes(each) for each in msgspec.json.decode(stripped, type=list[msgspec.Raw])]
        else:
            tree = msgspec.json.decode(stripped, type=dict[str, msgspec.Raw])
            if "chats" not in tree:
                return [_text(data)]
            records = [bytes(each) for each in msgspec.json.decode(tree["chats"], type=list[msgspec.Raw])]
    except msgspec.DecodeError:
        records = [line for line in stripped.splitlines() if line.strip()]
    parts: list[str] = []
    held: list[bytes] = []
    size = 0
    for record in records:
        if held and size + len(record) > most:
            parts.append(_text(b"[" + b",".join(held) + b"]"))
            held, size = [], 0
        held.append(record)
        size += len(record)
    return [*parts, _text(b"[" + b",".join(held) + b"]")] if held else parts


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FcdError(f"The file is not UTF-8 text (byte {error.start}).") from None


def _read(name: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise FcdError(f"{name} cannot be read: {error.strerror or error}.") from None


def _add(total: ChatImportReport, part: ChatImportReport) -> None:
    total.added += part.added
    total.duplicates += part.duplicates
    total.refused += part.refused
    total.chats += part.chats
    for reason, count in part.reasons.items():
        total.reasons[reason] = total.reasons.get(reason, 0) + count


def _rows(chats: list[ChatInfo]) -> str:
    from fcd.cli.output import printable, table

    rows = [
        (info.id, _when(info.updated_at), str(info.messages), info.model,
         ("* " if info.pinned else "") + printable(info.title or "(empty)") + ("  (writing)" if info.running else ""))
        for info in chats
    ]  # fmt: skip
    return table(("ID", "CHANGED", "MESSAGES", "MODEL", "TITLE"), rows)


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
