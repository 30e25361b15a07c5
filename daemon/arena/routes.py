"""/api/battles, /api/leaderboard, /api/votes and what belongs to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse

from daemon.arena.arena import Arena, Voter, voter_of
from daemon.arena.board import reading
from daemon.arena.exchange import export_lines, import_data
from daemon.arena.listing import agreement, list_pairs, list_votes
from daemon.arena.query import read_query
from daemon.context import DaemonContext
from daemon.event_stream import send_events
from daemon.http import decode_body, integer_query, json_response
from fcd.errors import ApiError, invalid
from fcd.wire.arena import (
    BattleEvent,
    BattleList,
    BattleRequest,
    ExportFormat,
    ImportFormat,
    JudgedPair,
    PairList,
    TurnRequest,
    VoteRequest,
    VoterList,
)

AnyRequest = Request[Any, Any]

_TYPES = {"csv": "text/csv; charset=utf-8", "json": "application/json", "fastchat": "application/x-ndjson"}


class ImportRequest(msgspec.Struct, forbid_unknown_fields=True):
    data: str
    format: ImportFormat = "auto"


def arena_routes(context: DaemonContext, arena: Arena) -> Blueprint:
    routes = Blueprint("arena")
    battle_routes(routes, context, arena)
    board_routes(routes, arena)
    file_routes(routes, context, arena)
    return routes


def battle_routes(routes: Blueprint, context: DaemonContext, arena: Arena) -> None:
    comment_s = context.settings.daemon.sse_comment_s

    @routes.post("/api/battles")
    async def create(request: AnyRequest) -> HTTPResponse:
        asked = decode_body(request, BattleRequest)
        return json_response(await arena.create(asked, _voter(request, asked.voter)), 201)

    @routes.get("/api/battles")
    async def recent(request: AnyRequest) -> HTTPResponse:
        if request.ctx.caller.kind == "anonymous":
            raise ApiError(401, "A list of battles needs a key or the admin token.", code="invalid_api_key")
        limit = integer_query(request, "limit", 50, high=500)
        return json_response(BattleList(await arena.recent(_voter(request), limit)))

    @routes.get("/api/battles/<battle>")
    async def show(request: AnyRequest, battle: str) -> HTTPResponse:
        return json_response(await arena.get(battle, _voter(request)))

    @routes.get("/api/battles/<battle>/events")
    async def events(request: AnyRequest, battle: str) -> None:
        await send_events(request, await arena.watch(battle, _voter(request)), _line, comment_s)

    @routes.post("/api/battles/<battle>/turns")
    async def turn(request: AnyRequest, battle: str) -> None:
        prompt = decode_body(request, TurnRequest).prompt
        live = await arena.turn(battle, prompt, _voter(request))
        await send_events(request, live.watch(context.clock), _line, comment_s)

    @routes.post("/api/battles/<battle>/regenerate")
    async def regenerate(request: AnyRequest, battle: str) -> None:
        live = await arena.regenerate(battle, _voter(request))
        await send_events(request, live.watch(context.clock), _line, comment_s)

    @routes.post("/api/battles/<battle>/stop")
    async def stop(request: AnyRequest, battle: str) -> HTTPResponse:
        return json_response(await arena.stop(battle, _voter(request)))

    @routes.post("/api/battles/<battle>/vote")
    async def vote(request: AnyRequest, battle: str) -> HTTPResponse:
        asked = decode_body(request, VoteRequest)
        return json_response(await arena.vote(battle, asked.outcome, _voter(request), reveal=asked.reveal))

    @routes.post("/api/battles/<battle>/undo")
    async def undo(request: AnyRequest, battle: str) -> HTTPResponse:
        return json_response(await arena.undo(battle, _voter(request)))

    @routes.post("/api/battles/<battle>/reveal")
    async def reveal(request: AnyRequest, battle: str) -> HTTPResponse:
        return json_response(await arena.reveal(battle, _voter(request)))


def board_routes(routes: Blueprint, arena: Arena) -> None:
    boards = arena.boards

    @routes.get("/api/leaderboard")
    async def leaderboard(request: AnyRequest) -> HTTPResponse:
        await arena.ready()
        return json_response(await boards.leaderboard(read_query(request.args)))

    @routes.get("/api/head-to-head")
    async def head_to_head(request: AnyRequest) -> HTTPResponse:
        return json_response(await boards.head_to_head(read_query(request.args)))

    @routes.get("/api/votes")
    async def votes(request: AnyRequest) -> HTTPResponse:
        query = read_query(request.args, besides=("limit", "offset"))
        limit = integer_query(request, "limit", 100, high=1000)
        offset = integer_query(request, "offset", 0, low=0, high=100_000_000)

        def read() -> Any:
            with reading(boards.database) as db:
                return list_votes(db, query, boards.clock(), limit, offset)

        return json_response(await asyncio.to_thread(read))

    @routes.get("/api/pairs")
    async def pairs(request: AnyRequest) -> HTTPResponse:
        read_query(request.args)
        await arena.ready()
        return json_response(PairList(list_pairs(boards.current_counts())))

    @routes.get("/api/voters")
    async def voters(request: AnyRequest) -> HTTPResponse:
        return json_response(VoterList(await boards.voters()))

    @routes.get("/api/agreement")
    async def judge_agreement(request: AnyRequest) -> HTTPResponse:
        judge = request.args.get("judge") or ""
        if not judge:
            raise invalid("judge", "'judge' is missing: name the judge model.")

        def read() -> Any:
            with reading(boards.database) as db:
                return agreement(db, judge, boards.clock())

        return json_response(await asyncio.to_thread(read))


def file_routes(routes: Blueprint, context: DaemonContext, arena: Arena) -> None:
    @routes.get("/api/arena/export")
    async def export(request: AnyRequest) -> None:
        form = request.args.get("format") or "json"
        if form not in msgspec.inspect.type_info(ExportFormat).values:  # type: ignore[attr-defined]
            raise invalid("format", f"'{form[:50]}' is not a format that can be exported.")
        query = read_query(request.args, besides=("format",))
        lines = export_lines(arena.boards.database, form, query, context.clock())
        response = await request.respond(content_type=_TYPES.get(form, "application/x-ndjson"))
        async for piece in _in_thread(lines):
            await response.send(piece)
        await response.send(end_stream=True)

    @routes.post("/api/arena/import")
    async def take_in(request: AnyRequest) -> HTTPResponse:
        asked = decode_body(request, ImportRequest)
        report = await import_data(context.store, asked.data, asked.format, context.clock())
        await arena.reload()
        return json_response(report)

    @routes.post("/api/judgments")
    async def judged(request: AnyRequest) -> HTTPResponse:
        report = await arena.take_judgment(decode_body(request, JudgedPair))
        return json_response(report)


async def _in_thread(pieces: Any) -> AsyncGenerator[bytes, None]:
    """A blocking iterator's pieces, each fetched in a thread."""
    iterator = iter(pieces)
    while (piece := await asyncio.to_thread(next, iterator, None)) is not None:
        yield piece


def _voter(request: AnyRequest, given: str = "") -> Voter:
    caller = request.ctx.caller
    return voter_of(caller.kind, caller.name, given)


def _line(event: BattleEvent) -> bytes:
    return f"event: {event.type}\ndata: ".encode() + msgspec.json.encode(event) + b"\n\n"
