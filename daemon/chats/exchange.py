"""Conversations as files: our own JSON, Markdown, ShareGPT's and FastChat's forms, and what ChatGPT exports.

Reading gives `Taken`: a conversation with its messages, whose ids are only good among themselves.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from daemon.chats.checks import check_attachments, check_params
from daemon.store import chats as records
from fcd.chatlog import FORMAT as LOG_FORMAT
from fcd.chatlog import Chat as ChatLog
from fcd.chattree import Tree, content_of
from fcd.errors import ApiError
from fcd.wire.chats import (
    MAX_SYSTEM,
    MAX_TITLE,
    ChatFormat,
    ChatImportFormat,
    ChatImportReport,
    ChatMessage,
    ChatTree,
    CreateChat,
    MessageState,
)

FORMAT = "fcd-chats-1"
_STATES = frozenset(msgspec.inspect.type_info(MessageState).values)  # type: ignore[attr-defined]
_USERS = frozenset({"human", "user", "prompter"})
_ASSISTANTS = frozenset({"gpt", "assistant", "chatgpt", "bing", "bard", "model"})


class Taken(msgspec.Struct):
    """A conversation out of a file."""

    chat: CreateChat
    messages: list[ChatMessage]
    origin: str
    """What tells it from others: the same conversation has the same one each time."""
    created_at: float = 0.0
    updated_at: float = 0.0
    pinned: bool = False
    id: str = ""
    """Its id in the store that it came from, if it was one of ours."""


class Unreadable(Exception):
    """Why one conversation of a file cannot be taken in."""


# Writing


def write(trees: Sequence[ChatTree], form: ChatFormat) -> str:
    """The conversations as one file. All variants are in `json` only; the others have what is shown."""
    if form == "markdown":
        return "\n\n---\n\n".join(markdown(tree) for tree in trees)
    if form == "sharegpt":
        return _dump([sharegpt(tree) for tree in trees])
    if form == "fastchat":
        return _dump(fastchat(trees[0]) if len(trees) == 1 else [fastchat(tree) for tree in trees])
    return _dump({"format": FORMAT, "chats": [msgspec.to_builtins(tree) for tree in trees]})


def markdown(tree: ChatTree) -> str:
    lines = [f"# {tree.chat.title or 'Chat'}", "", f"Model: {tree.chat.model}", ""]
    if tree.chat.system:
        lines += ["## System", "", tree.chat.system, ""]
    for message in Tree(tree.messages).path():
        name = "User" if message.role == "user" else message.model or tree.chat.model or "Assistant"
        broken = "" if message.state in ("done", "cut") else f" ({message.state})"
        lines += [f"## {name}{broken}", "", _text(message), ""]
    return "\n".join(lines)


def sharegpt(tree: ChatTree) -> dict[str, Any]:
    said = [{"from": "system", "value": tree.chat.system}] if tree.chat.system else []
    for message in Tree(tree.messages).path():
        said.append({"from": "human" if message.role == "user" else "gpt", "value": _text(message)})
    return {"id": tree.chat.id, "title": tree.chat.title, "model": tree.chat.model, "conversations": said}


def fastchat(tree: ChatTree) -> dict[str, Any]:
    """What FastChat's `!!save` writes and its `!!load` reads."""
    roles = ["USER", "ASSISTANT"]
    said = [[roles[message.role == "assistant"], _text(message)] for message in Tree(tree.messages).path()]
    return {
        "template_name": tree.chat.model or "fcd",
        "system_message": tree.chat.system,
        "roles": roles,
        "messages": said,
        "offset": 0,
        "conv_id": tree.chat.id,
        "model_name": tree.chat.model,
    }


def _text(message: ChatMessage) -> str:
    content = content_of(message)
    if isinstance(content, str):
        return content
    images = "".join(f"\n\n[image: {each.name}]" for each in message.attachments if each.is_image)
    return str(content[0]["text"]) + images


# Reading


def read(data: str, form: ChatImportFormat) -> Iterator[Taken | Unreadable]:
    """Every conversation of a file.

    Raises:
        ApiError: 400, the file is of none of these forms.
    """
    records_, reader = _records(data, form)
    for record in records_:
        try:
            yield reader(record)
        except Unreadable as why:
            yield why
        except ApiError as error:
            yield Unreadable(error.message)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError, OverflowError):
            yield Unreadable("it lacks what a conversation of this form has")


def enter(db: sqlite3.Connection, found: Sequence[Taken | Unreadable], now: float) -> ChatImportReport:
    """Put conversations that are not known yet into the store."""
    report = ChatImportReport()
    for taken in found:
        try:
            if isinstance(taken, Unreadable):
                raise taken
            if _is_known(db, taken):
                report.duplicates += 1
                continue
            report.chats.append(_enter_whole(db, taken, now))
            report.added += 1
        except Unreadable as why:
            report.refused += 1
            report.reasons[str(why)] = report.reasons.get(str(why), 0) + 1
    return report


def _enter_whole(db: sqlite3.Connection, taken: Taken, now: float) -> str:
    """All of it or nothing. Raises Unreadable: it holds what the database cannot."""
    db.execute("SAVEPOINT one_chat")
    try:
        chat = _enter(db, taken, now)
    except (ApiError, sqlite3.IntegrityError, OverflowError, ValueError) as error:
        db.execute("ROLLBACK TO one_chat")
        db.execute("RELEASE one_chat")
        why = error.message if isinstance(error, ApiError) else "it holds a value that cannot be kept"
        raise Unreadable(why) from None
    db.execute("RELEASE one_chat")
    return chat


def _is_known(db: sqlite3.Connection, taken: Taken) -> bool:
    if records.find_origin(db, taken.origin):
        return True
    return bool(taken.id) and bool(records.infos(db, [taken.id]))


def _enter(db: sqlite3.Connection, taken: Taken, now: float) -> str:
    made = taken.created_at or now
    chat = taken.id
    asked = taken.chat
    asked.title, asked.system, asked.model = (_clean(text) for text in (asked.title, asked.system, asked.model))
    if not chat or db.execute("SELECT 1 FROM chats WHERE id = ?", (chat,)).fetchone():
        chat = records.new_chat_id(made)
    updated = taken.updated_at or made
    records.create_chat(db, taken.chat, made, chat=chat, origin=taken.origin, updated=updated)
    if taken.pinned:
        db.execute("UPDATE chats SET pinned = 1 WHERE id = ?", (chat,))
    ids, room = {"": ""}, records.Room(db, chat)
    for message in taken.messages:
        ids[message.id] = records.new_message_id()
        message.id, message.parent = ids[message.id], ids[message.parent]
        message.created_at = message.created_at or made
        message.content, message.reasoning = _clean(message.content), _clean(message.reasoning)
        message.model = _clean(message.model)
        records.add_message(db, chat, message, room)
    return chat


Reader = Callable[[Any], Taken]


def _records(data: str, form: ChatImportFormat) -> tuple[list[Any], Reader]:
    """The conversations of a file as they stand in it, and what reads one."""
    tree = _parse(data)
    if isinstance(tree, dict) and tree.get("format") == FORMAT:
        tree, guess = tree.get("chats"), "json"
    elif isinstance(tree, dict):
        tree, guess = [tree], _guess(tree)
    else:
        guess = _guess(tree[0]) if isinstance(tree, list) and tree else ""
    if not isinstance(tree, list):
        raise _unknown("it holds no list of conversations")
    chosen = guess if form == "auto" else form
    reader = _READERS.get(chosen)
    if reader is None:
        raise _unknown("none of the known forms fits it")
    return tree, reader


def _parse(data: str) -> Any:
    text = data.lstrip("\ufeff \r\n\t")
    try:
        return _loads(text)
    except RecursionError:
        raise _unknown("it is nested too deeply") from None
    except ValueError as error:
        lines = [line for line in text.splitlines() if line.strip()]
        try:
            return [_loads(line) for line in lines] if len(lines) > 1 else _raise(error)
        except (ValueError, RecursionError):
            raise _unknown(f"it is not JSON: {error}") from None


def _loads(text: str) -> Any:
    """Numbers that no answer of the daemon's could tell on, such as NaN and 1e999, are read as missing."""
    return json.loads(text, parse_constant=lambda _: None, parse_float=_finite)


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _raise(error: Exception) -> Any:
    raise error


def _guess(record: Any) -> str:
    if not isinstance(record, Mapping):
        return ""
    if "mapping" in record:
        return "chatgpt"
    if "conversations" in record or "items" in record:
        return "sharegpt"
    if "roles" in record and "messages" in record:
        return "fastchat"
    if "chat" in record:
        return "json"
    saved = record.get("format") == LOG_FORMAT or ("messages" in record and "id" in record)
    return "fcd-chat" if saved else ""


def _ours(record: Any) -> Taken:
    try:
        tree = msgspec.convert(record, ChatTree)
    except msgspec.ValidationError as error:
        raise Unreadable(f"it is not a chat as fcd writes them: {error}") from None
    known: set[str] = {""}
    for message in tree.messages:
        if message.parent not in known or message.id in known:
            raise Unreadable("its messages do not make a tree")
        known.add(message.id)
        if message.is_running:
            message.state = "interrupted"
        if message.role == "assistant" and message.attachments:
            raise Unreadable("an answer has attachments")
        check_attachments(message.attachments)
    info = tree.chat
    check_params(info.params)
    made = CreateChat(info.model[:512], info.system[:MAX_SYSTEM], info.params, info.title[:MAX_TITLE] * info.named)
    try:
        own = records.check_id(info.id)
    except ApiError:
        raise Unreadable("its id is none") from None
    return Taken(made, tree.messages, f"fcd:{own}", info.created_at, info.updated_at, info.pinned, own)


def _log(record: Any) -> Taken:
    """What `fcd chat` keeps and /save writes."""
    try:
        log = msgspec.convert(record, ChatLog)
    except msgspec.ValidationError as error:
        raise Unreadable(f"it is not a saved chat: {error}") from None
    said = [(message.role, message.content) for message in log.messages]
    messages = _line(said, log.model)
    for message, kept in zip(messages, (each for each in log.messages if each.role != "system"), strict=False):
        message.model, message.created_at = kept.model or message.model, kept.at
        message.state = "stopped" if kept.partial else "done"
    made = CreateChat(log.model[:512], log.system[:MAX_SYSTEM], log.parameters)
    return Taken(made, messages, f"file:{log.id}", log.created_at, log.updated_at, id=records.check_id(log.id))


def _sharegpt(record: Any) -> Taken:
    """`{"id", "conversations": [{"from", "value"}]}`, also with "items", "role" and "content"."""
    said: list[tuple[str, str]] = []
    system = str(record.get("system") or record.get("system_prompt") or "")
    for each in record.get("conversations") or record.get("items") or ():
        role = str(each.get("from") or each.get("role") or "").lower()
        text = each.get("value") if "value" in each else each.get("content", each.get("text"))
        if not isinstance(text, str):
            raise Unreadable("a message has no text")
        if role == "system":
            system = system or text
        elif role in _USERS or role in _ASSISTANTS:
            said.append(("user" if role in _USERS else "assistant", text))
    model = str(record.get("model") or "")
    name = record.get("id") or record.get("conversation_id") or ""
    return _taken(said, system, model, str(record.get("title") or ""), f"sharegpt:{name}" if name else "")


def _fastchat(record: Any) -> Taken:
    """`{"template_name", "system_message", "roles", "messages": [[role, text]], "offset", "conv_id"}`."""
    user = str(record["roles"][0])
    said: list[tuple[str, str]] = []
    for role, text in record["messages"][int(record.get("offset") or 0) :]:
        if isinstance(text, list) and text:  # a text with images: only the text can be kept
            text = text[0]
        if isinstance(text, str):
            said.append(("user" if str(role) == user else "assistant", text))
    system = str(record.get("system_message") or "")
    return _taken(said, system, str(record.get("model_name") or ""), "", "")


def _chatgpt(record: Any) -> Taken:
    """One of conversations.json: `{"title", "mapping": {id: {"message", "parent", "children"}}, "current_node"}`."""
    mapping: Mapping[str, Any] = record["mapping"]
    shown = _ancestors(mapping, record.get("current_node"))
    messages: list[ChatMessage] = []
    kept = {"": ""}
    by_id: dict[str, ChatMessage] = {}
    system = model = ""
    for node in _in_order(mapping):
        entry = mapping[node]
        above = kept.get(str(entry.get("parent") or ""), "")
        message = entry.get("message") or {}
        role = str((message.get("author") or {}).get("role") or "")
        kind = str((message.get("content") or {}).get("content_type") or "")
        hidden = bool((message.get("metadata") or {}).get("is_visually_hidden_from_conversation"))
        text = _chatgpt_text(message.get("content") or {})
        slug = str((message.get("metadata") or {}).get("model_slug") or "")
        if role == "system" and not hidden:
            system = system or text
        wanted = role in ("user", "assistant") and text.strip() and not hidden and kind not in _NOT_SAID
        if not wanted or (role == "assistant" and (message.get("recipient") or "all") != "all"):
            kept[node] = above
            continue
        before = by_id.get(above)
        if before is not None and before.role == role == "assistant" and before.id not in _forks(messages):
            before.content += f"\n\n{text}"  # one answer that tools were called in between
            kept[node] = above
            continue
        at = _number(message.get("create_time"))
        made = ChatMessage(node, role, above, node in shown, text, model=slug if role == "assistant" else "")  # type: ignore[arg-type]
        made.created_at = at
        messages.append(made)
        by_id[node] = made
        kept[node] = node
        model = slug or model
    _choose_something(messages)
    name = str(record.get("conversation_id") or record.get("id") or "")
    if not messages:
        raise Unreadable("it has no messages")
    asked = CreateChat(model[:512], system[:MAX_SYSTEM], {}, str(record.get("title") or "")[:MAX_TITLE])
    origin = f"chatgpt:{name}" if name else f"chatgpt:{_digest([(each.role, each.content) for each in messages])}"
    return Taken(asked, messages, origin, _number(record.get("create_time")), _number(record.get("update_time")))


_NOT_SAID = frozenset({"thoughts", "reasoning_recap", "user_editable_context", "model_editable_context"})
_READERS: Mapping[str, Reader] = {
    "json": _ours,
    "fcd-chat": _log,
    "sharegpt": _sharegpt,
    "fastchat": _fastchat,
    "chatgpt": _chatgpt,
}


def _forks(messages: Sequence[ChatMessage]) -> set[str]:
    """Messages that something follows already."""
    return {message.parent for message in messages}


def _in_order(mapping: Mapping[str, Any]) -> Iterator[str]:
    """Every node after its parent, siblings in their order."""
    children: dict[str, list[str]] = {}
    for node, entry in mapping.items():
        parent = str(entry.get("parent") or "")
        children.setdefault(parent if parent in mapping else "", []).append(node)
    for parent, nodes in children.items():
        order = list((mapping.get(parent) or {}).get("children") or ())
        nodes.sort(key=lambda node: order.index(node) if node in order else len(order))
    waiting = children.get("", [])[::-1]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += children.get(node, [])[::-1]


def _ancestors(mapping: Mapping[str, Any], node: Any) -> set[str]:
    found: set[str] = set()
    while isinstance(node, str) and node in mapping and node not in found:
        found.add(node)
        node = mapping[node].get("parent")
    return found


def _choose_something(messages: Sequence[ChatMessage]) -> None:
    """Where no child is shown, the last one is; and never two."""
    by_parent: dict[str, list[ChatMessage]] = {}
    for message in messages:
        by_parent.setdefault(message.parent, []).append(message)
    for siblings in by_parent.values():
        shown = next((each for each in siblings if each.chosen), siblings[-1])
        for each in siblings:
            each.chosen = each is shown


def _chatgpt_text(content: Mapping[str, Any]) -> str:
    parts = content.get("parts")
    if isinstance(parts, list):
        texts = [part if isinstance(part, str) else str((part or {}).get("text") or "") for part in parts]
        return "\n".join(text for text in texts if text)
    return str(content.get("text") or "")


def _taken(said: Sequence[tuple[str, str]], system: str, model: str, title: str, origin: str) -> Taken:
    if not said:
        raise Unreadable("it has no messages")
    asked = CreateChat(model[:512], system[:MAX_SYSTEM], {}, title[:MAX_TITLE])
    return Taken(asked, _line(said, model), origin or f"said:{_digest(said)}")


def _line(said: Sequence[tuple[str, str]], model: str) -> list[ChatMessage]:
    messages: list[ChatMessage] = []
    for number, (role, text) in enumerate((role, text) for role, text in said if role != "system"):
        before = str(number - 1) if number else ""
        messages.append(ChatMessage(str(number), role, before, True, text))  # type: ignore[arg-type]
        messages[-1].model = model if role == "assistant" else ""
    return messages


def _digest(said: Sequence[tuple[str, str]]) -> str:
    return hashlib.sha256(json.dumps(list(said)).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _clean(text: str) -> str:
    """Halves of characters, which JSON can hold and no file of text can, are replaced."""
    return text.encode("utf-8", "replace").decode()


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else 0.0


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def _unknown(why: str) -> ApiError:
    return ApiError(
        400,
        f"The file cannot be taken in: {why}."
        " Known are fcd's JSON, ChatGPT's conversations.json, ShareGPT and FastChat.",
        code="unknown_format",
        param="data",
    )


def with_attachments(db: sqlite3.Connection, tree: ChatTree) -> ChatTree:
    """The attachments' data too, for a file that holds everything."""
    for message in tree.messages:
        if message.attachments:
            records.with_data(db, message)
    return tree
