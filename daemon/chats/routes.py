"""/api/chats and /api/presets."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any
from urllib.parse import unquote

import msgspec
from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse

from daemon.chats import exchange
from daemon.chats.chats import Chats
from daemon.context import DaemonContext
from daemon.event_stream import send_events
from daemon.http import decode_body, integer_query, json_response
from daemon.store import chats as records
from fcd.errors import invalid
from fcd.wire.chats import (
    ChatEvent,
    ChatFormat,
    ChatTree,
    ChooseRequest,
    CreateChat,
    GenerateRequest,
    ImportChats,
    PatchChat,
    Preset,
    PresetList,
    PutLog,
    QueueRequest,
)

AnyRequest = Request[Any, Any]

MOST_EXPORTED = 10_000
_FORMATS: tuple[str, ...] = msgspec.inspect.type_info(ChatFormat).values  # type: ignore[attr-defined]
_LONGEST_QUERY = 1000


def chat_routes(context: DaemonContext, chats: Chats) -> Blueprint:
    """Routes for the machine's owner."""
    routes = Blueprint("chats")
    _of_all(routes, chats)
    _of_one(routes, chats)
    _of_answers(routes, context, chats)
    _of_presets(routes, chats)
    return routes


def _of_all(routes: Blueprint, chats: Chats) -> None:
    @routes.get("/api/chats")
    async def listed(request: AnyRequest) -> HTTPResponse:
        limit = integer_query(request, "limit", 100, high=1000)
        offset = integer_query(request, "offset", 0, low=0, high=100_000_000)
        return json_response(await chats.listed(limit, offset, deleted=_flag(request, "deleted")))

    @routes.post("/api/chats")
    async def create(request: AnyRequest) -> HTTPResponse:
        return json_response(await chats.create(decode_body(request, CreateChat)), 201)

    @routes.get("/api/chats/search")
    async def search(request: AnyRequest) -> HTTPResponse:
        words = str(request.args.get("q") or "")
        if not words.strip() or len(words) > _LONGEST_QUERY:
            raise invalid("q", f"'q' must be the words to look for, at most {_LONGEST_QUERY} characters.")
        return json_response(await chats.search(words, integer_query(request, "limit", 50, high=500)))

    @routes.get("/api/chats/export")
    async def export(request: AnyRequest) -> HTTPResponse:
        form = str(request.args.get("format") or "json")
        if form not in _FORMATS:
            raise invalid("format", f"'format' must be one of {', '.join(_FORMATS)}.")
        wanted = [each for each in str(request.args.get("ids") or "").split(",") if each]
        if len(wanted) > MOST_EXPORTED:
            raise invalid("ids", f"At most {MOST_EXPORTED} chats go into one file.")
        trees = [await _whole(chats, chat) for chat in wanted or await _everything(chats)]
        text = await asyncio.to_thread(exchange.write, trees, form)  # type: ignore[arg-type]
        kind = "text/markdown; charset=utf-8" if form == "markdown" else "application/json"
        return HTTPResponse(text.encode("utf-8", "replace"), content_type=kind)

    @routes.post("/api/chats/import")
    async def take_in(request: AnyRequest) -> HTTPResponse:
        asked = decode_body(request, ImportChats)
        await chats.ready()
        found = await asyncio.to_thread(lambda: list(exchange.read(asked.data, asked.format)))
        store, now = chats.store, chats.clock()
        report = await store.run(lambda db: exchange.enter(db, found, now))
        if report.added:
            chats.announce_import()
        return json_response(report)


def _of_one(routes: Blueprint, chats: Chats) -> None:
    @routes.get("/api/chats/<chat>")
    async def show(request: AnyRequest, chat: str) -> HTTPResponse:
        return json_response(await chats.get(_name(chat)))

    @routes.patch("/api/chats/<chat>")
    async def patch(request: AnyRequest, chat: str) -> HTTPResponse:
        return json_response(await chats.patch(_name(chat), decode_body(request, PatchChat)))

    @routes.delete("/api/chats/<chat>")
    async def delete(request: AnyRequest, chat: str) -> HTTPResponse:
        return json_response(await chats.delete(_name(chat)))

    @routes.post("/api/chats/<chat>/restore")
    async def restore(request: AnyRequest, chat: str) -> HTTPResponse:
        return json_response(await chats.restore(_name(chat)))

    @routes.get("/api/chats/<chat>/messages")
    async def messages(request: AnyRequest, chat: str) -> HTTPResponse:
        limit = integer_query(request, "limit", 100, high=1000)
        offset = integer_query(request, "offset", 0, low=0, high=100_000_000)
        return json_response(await chats.path(_name(chat), limit, offset))

    @routes.get("/api/chats/<chat>/messages/<message>")
    async def message(request: AnyRequest, chat: str, message: str) -> HTTPResponse:
        return json_response(await chats.message(_name(chat), unquote(message)))

    @routes.post("/api/chats/<chat>/choose")
    async def choose(request: AnyRequest, chat: str) -> HTTPResponse:
        return json_response(await chats.choose(_name(chat), decode_body(request, ChooseRequest).message))

    @routes.put("/api/chats/<chat>/log")
    async def put_log(request: AnyRequest, chat: str) -> HTTPResponse:
        return json_response(await chats.put_log(_name(chat), decode_body(request, PutLog)))


def _of_answers(routes: Blueprint, context: DaemonContext, chats: Chats) -> None:
    comment_s = context.settings.daemon.sse_comment_s

    @routes.post("/api/chats/<chat>/generate")
    async def generate(request: AnyRequest, chat: str) -> HTTPResponse:
        return json_response(await chats.generate(_name(chat), decode_body(request, GenerateRequest)), 202)

    @routes.post("/api/chats/<chat>/stop")
    async def stop(request: AnyRequest, chat: str) -> HTTPResponse:
        return json_response(await chats.stop(_name(chat)))

    @routes.post("/api/chats/<chat>/queue")
    async def enqueue(request: AnyRequest, chat: str) -> HTTPResponse:
        return json_response(await chats.enqueue(_name(chat), decode_body(request, QueueRequest)), 202)

    @routes.delete("/api/chats/<chat>/queue")
    async def take_all_back(request: AnyRequest, chat: str) -> HTTPResponse:
        return json_response(await chats.take_back(_name(chat)))

    @routes.delete("/api/chats/<chat>/queue/<question>")
    async def take_back(request: AnyRequest, chat: str, question: str) -> HTTPResponse:
        return json_response(await chats.take_back(_name(chat), unquote(question)))

    @routes.get("/api/chats/<chat>/stream")
    async def stream(request: AnyRequest, chat: str) -> None:
        cursor = str(request.args.get("cursor") or request.headers.get("last-event-id") or "")
        events = await chats.stream(_name(chat), str(request.args.get("message") or ""), cursor)
        await send_events(request, events, _line, comment_s)


def _of_presets(routes: Blueprint, chats: Chats) -> None:
    @routes.get("/api/presets")
    async def presets(request: AnyRequest) -> HTTPResponse:
        return json_response(PresetList(await chats.presets()))

    @routes.put("/api/presets/<name>")
    async def put_preset(request: AnyRequest, name: str) -> HTTPResponse:
        return json_response(await chats.put_preset(unquote(name), decode_body(request, Preset)))

    @routes.delete("/api/presets/<name>")
    async def delete_preset(request: AnyRequest, name: str) -> HTTPResponse:
        await chats.delete_preset(unquote(name))
        return json_response(None)


def _line(event: ChatEvent) -> bytes:
    head = f"event: {event.type}\n" + (f"id: {event.cursor}\n" if event.cursor else "")
    return head.encode() + b"data: " + msgspec.json.encode(event) + b"\n\n"


async def _everything(chats: Chats) -> list[str]:
    found = await chats.listed(MOST_EXPORTED, 0)
    if found.total > len(found.chats):
        raise invalid("ids", f"There are {found.total} chats, and a file holds {MOST_EXPORTED}: say which with 'ids'.")
    return [info.id for info in found.chats]


async def _whole(chats: Chats, chat: str) -> ChatTree:
    def work(db: sqlite3.Connection) -> ChatTree:
        return exchange.with_attachments(db, records.get_tree(db, chat))

    await chats.ready()
    return await chats.store.run(work)


def _name(chat: str) -> str:
    return records.check_id(unquote(chat))


def _flag(request: AnyRequest, name: str) -> bool:
    text = str(request.args.get(name) or "false")
    if text not in ("true", "false"):
        raise invalid(name, f"'{name}' must be true or false.")
    return text == "true"
