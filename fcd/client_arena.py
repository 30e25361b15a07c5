"""The arena's part of the daemon's client: battles, votes, the board."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from fcd.client_calls import Calls
from fcd.wire.arena import (
    Agreement,
    BattleEvent,
    BattleInfo,
    BattleList,
    BattleRequest,
    ExportFormat,
    HeadToHead,
    ImportFormat,
    ImportReport,
    JudgedPair,
    Leaderboard,
    LeaderboardQuery,
    Outcome,
    PairInfo,
    PairList,
    TurnRequest,
    VoteList,
    VoteRequest,
    VoterInfo,
    VoterList,
)


class ArenaCalls(Calls):
    """Mixed into `fcd.client.Client`. Every method raises `NotRunning` and `ApiError` as the others do."""

    # Battles

    async def create_battle(self, request: BattleRequest) -> BattleInfo:
        """Start a battle; with a prompt in it, both sides begin to write at once."""
        return msgspec.convert(await self.json("POST", "/api/battles", request), BattleInfo)

    async def battle(self, battle: str) -> BattleInfo:
        return await self._battle("GET", battle)

    async def battles(self, limit: int = 50) -> list[BattleInfo]:
        """The caller's own, newest first, without their turns."""
        return msgspec.convert(await self.json("GET", f"/api/battles?limit={limit}"), BattleList).battles

    async def battle_turn(self, battle: str, prompt: str) -> AsyncGenerator[BattleEvent, None]:
        """Ask both sides; closing the stream does not stop them."""
        async with aclosing(self._stream("POST", f"{_path(battle)}/turns", TurnRequest(prompt))) as events:
            async for event in events:
                yield event

    async def battle_regenerate(self, battle: str) -> AsyncGenerator[BattleEvent, None]:
        """Both answers of the last turn again."""
        async with aclosing(self._stream("POST", f"{_path(battle)}/regenerate")) as events:
            async for event in events:
                yield event

    async def battle_events(self, battle: str) -> AsyncGenerator[BattleEvent, None]:
        """Attach to what is being written: the whole battle first, then what is new, to the end of the turn."""
        async with aclosing(self._stream("GET", f"{_path(battle)}/events")) as events:
            async for event in events:
                yield event

    async def battle_stop(self, battle: str) -> BattleInfo:
        """Stop both sides, keeping what they wrote."""
        return await self._battle("POST", battle, "/stop")

    async def vote(self, battle: str, outcome: Outcome, *, reveal: bool = False) -> BattleInfo:
        """Vote, once. It is on disk when this returns; `undo_until` says how long `undo` works."""
        return await self._battle("POST", battle, "/vote", VoteRequest(outcome, reveal))

    async def undo(self, battle: str) -> BattleInfo:
        """Take the vote back. ApiError 409 when it is final."""
        return await self._battle("POST", battle, "/undo")

    async def reveal(self, battle: str) -> BattleInfo:
        """Who they were; makes the vote final. ApiError 409 before the vote."""
        return await self._battle("POST", battle, "/reveal")

    # The board

    async def leaderboard(self, query: LeaderboardQuery | None = None) -> Leaderboard:
        return msgspec.convert(await self.json("GET", f"/api/leaderboard{_query(query)}"), Leaderboard)

    async def head_to_head(self, query: LeaderboardQuery | None = None) -> HeadToHead:
        return msgspec.convert(await self.json("GET", f"/api/head-to-head{_query(query)}"), HeadToHead)

    async def votes(self, query: LeaderboardQuery | None = None, *, limit: int = 100, offset: int = 0) -> VoteList:
        """Final votes, newest first."""
        path = f"/api/votes{_query(query, limit=limit, offset=offset)}"
        return msgspec.convert(await self.json("GET", path), VoteList)

    async def pairs(self, query: LeaderboardQuery | None = None) -> list[PairInfo]:
        """Every pair of the board's models, the most informative first."""
        return msgspec.convert(await self.json("GET", f"/api/pairs{_query(query)}"), PairList).pairs

    async def voters(self) -> list[VoterInfo]:
        return msgspec.convert(await self.json("GET", "/api/voters"), VoterList).voters

    async def agreement(self, judge: str) -> Agreement:
        """Of a judge model with people."""
        return msgspec.convert(await self.json("GET", f"/api/agreement?judge={quote(judge, safe='')}"), Agreement)

    async def judge_vote(self, pair: JudgedPair) -> ImportReport:
        return msgspec.convert(await self.json("POST", "/api/judgments", pair), ImportReport)

    # Files

    async def arena_export(
        self, form: ExportFormat, query: LeaderboardQuery | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The file's bytes as they come."""
        async with aclosing(self.raw("GET", f"/api/arena/export{_query(query, format=form)}")) as pieces:
            async for piece in pieces:
                yield piece

    async def arena_import(self, data: bytes, form: ImportFormat = "auto") -> ImportReport:
        """Take in one file (or a part of one, ended at a line) of at most `daemon.max_body_bytes`."""
        body = {"format": form, "data": data.decode("utf-8", "replace")}
        return msgspec.convert(await self.json("POST", "/api/arena/import", body), ImportReport)

    async def _battle(self, method: str, battle: str, rest: str = "", body: Any = None) -> BattleInfo:
        return msgspec.convert(await self.json(method, _path(battle) + rest, body), BattleInfo)

    async def _stream(self, method: str, path: str, body: Any = None) -> AsyncGenerator[BattleEvent, None]:
        async with aclosing(self.events(method, path, body)) as events:
            async for event in events:
                yield msgspec.json.decode(event.data, type=BattleEvent)


def _path(battle: str) -> str:
    return f"/api/battles/{quote(battle, safe='')}"


def _query(query: LeaderboardQuery | None, **more: Any) -> str:
    """`?a=b`, with what differs from the defaults."""
    given: dict[str, Any] = {**(msgspec.to_builtins(query) if query is not None else {}), **more}
    flat = {name: _text(value) for name, value in given.items()}
    return f"?{urlencode(flat)}" if flat else ""


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(value) if isinstance(value, list) else str(value)
