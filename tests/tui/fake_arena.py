"""The arena of the fake daemon: battles that a test writes itself, a board that it sets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from fcd.errors import ApiError, FcdError, NotRunning
from fcd.wire.arena import (
    Answer,
    AnswerStats,
    BattleEvent,
    BattleInfo,
    BattleRequest,
    BoardRow,
    HeadToHead,
    ImportReport,
    Leaderboard,
    LeaderboardQuery,
    Outcome,
    RatingChange,
    Side,
    Turn,
    VoteList,
    VoteRecord,
)

BOARD = Leaderboard(
    [
        BoardRow(1, "qwen-7b-awq", 1102, 1073, 1133, 96, 55, 29, 12, 0.64),
        BoardRow(1, "vicuna-7b", 1043, 1008, 1081, 88, 44, 40, 4, 0.52),
        BoardRow(3, "guide", 901, 854, 945, 30, 6, 22, 2, 0.24),
    ],
    votes=107,
    left_out=3,
    method="bradley_terry",
    intervals="sandwich",
)
HEADS = HeadToHead(
    ["qwen-7b-awq", "vicuna-7b", "guide"],
    battles=[[0, 77, 19], [77, 0, 11], [19, 11, 0]],
    wins=[[0, 46, 15], [31, 0, 9], [4, 2, 0]],
    win_rate=[[None, 0.597, 0.789], [0.403, None, 0.818], [0.211, 0.182, None]],
    predicted=[[0.5, 0.584, 0.761], [0.416, 0.5, 0.694], [0.239, 0.306, 0.5]],
)
VOTES = [
    VoteRecord(
        f"b{number}", 0.0, "qwen-7b-awq", "vicuna-7b", "a" if number % 3 else "tie", "local", "person", "blind", 1,
        language="en", prompt=f"Explain paging to a web developer, number {number}",
    )
    for number in range(5)
]  # fmt: skip


class FakeArena:
    """Holds what is hidden, and says it only after the vote, as the daemon does."""

    def __init__(self) -> None:
        self.names = ("guide", "guide-mini")
        self.battle: BattleInfo | None = None
        self.created: list[BattleRequest] = []
        self.calls: list[tuple[str, ...]] = []
        self.queries: list[LeaderboardQuery] = []
        self.board = BOARD
        self.heads = HEADS
        self.votes = list(VOTES)
        self.imported: list[bytes] = []
        self.refuse: FcdError | None = None
        self.refuse_files: FcdError | None = None
        """Why nothing is exported or taken in."""
        self.hold_export: asyncio.Event | None = None
        self._events: asyncio.Queue[BattleEvent | FcdError | None] = asyncio.Queue()

    def begin(self, prompt: str) -> None:
        assert self.battle is not None
        self.battle.turns.append(Turn(prompt, Answer(), Answer()))
        self.battle.running = True
        self._events = asyncio.Queue()

    def write(self, side: Side, text: str) -> None:
        """More of one side's answer."""
        answer = self._answer(side)
        answer.text += text
        answer.state = "writing"
        assert self.battle is not None
        self._events.put_nowait(BattleEvent("delta", turn=len(self.battle.turns) - 1, side=side, text=text))

    def _answer(self, side: Side) -> Answer:
        assert self.battle is not None
        answer: Answer = getattr(self.battle.turns[-1], side)
        return answer

    def done(self) -> None:
        """Both sides are complete."""
        assert self.battle is not None
        for side in ("a", "b"):
            self._answer(side).state = "done"  # type: ignore[arg-type]
            self._events.put_nowait(BattleEvent("done", turn=len(self.battle.turns) - 1, side=side))  # type: ignore[arg-type]
        self._end()

    def _end(self) -> None:
        assert self.battle is not None
        self.battle.running = False
        self._events.put_nowait(BattleEvent("end", turn=len(self.battle.turns) - 1))
        self._events.put_nowait(None)

    def lose(self) -> None:
        self._events.put_nowait(NotRunning("The daemon does not answer."))

    def info(self) -> BattleInfo:
        assert self.battle is not None
        return msgspec.convert(msgspec.to_builtins(self.battle), BattleInfo)

    def finalize(self) -> None:
        battle = self.battle
        assert battle is not None
        battle.final, battle.undo_until = True, 0.0
        battle.model_a, battle.model_b = self.names
        battle.rated = battle.mode == "blind" and battle.vote != "skip"
        for turn in battle.turns:
            turn.a.stats = AnswerStats(12, 118, 0.42, 31.4, "stop")
            turn.b.stats = AnswerStats(12, 97, 0.19, 412.0, "stop")
        if battle.rated:
            battle.ratings = [
                RatingChange(self.names[0], 1043, 1057, 38), RatingChange(self.names[1], 1002, 988, 31)
            ]  # fmt: skip


class FakeArenaClient:
    """Mixed into the fake client; `_arena` is the daemon's."""

    _arena: FakeArena

    async def create_battle(self, request: BattleRequest) -> BattleInfo:
        if self._arena.refuse is not None:
            raise self._arena.refuse
        self._arena.created.append(request)
        self._arena.battle = BattleInfo(f"battle{len(self._arena.created)}", request.mode, 0.0)
        if request.mode == "named":
            self._arena.battle.model_a, self._arena.battle.model_b = request.models
        self._arena.begin(request.prompt)
        return self._arena.info()

    async def battle(self, battle: str) -> BattleInfo:
        return self._arena.info()

    async def battles(self, limit: int = 50) -> list[BattleInfo]:
        return [self._arena.info()] if self._arena.battle is not None else []

    async def battle_events(self, battle: str) -> AsyncIterator[BattleEvent]:
        self._arena.calls.append(("events", battle))
        queue = self._arena._events
        yield BattleEvent("battle", battle=self._arena.info())
        while not queue.empty():  # the battle above holds what was written before
            queue.get_nowait()
        if not self._arena.info().running:
            return
        async for event in self._follow(queue):
            yield event

    async def _follow(self, queue: asyncio.Queue[Any]) -> AsyncIterator[BattleEvent]:
        while (event := await queue.get()) is not None:
            if isinstance(event, FcdError):
                raise event
            yield event

    async def battle_turn(self, battle: str, prompt: str) -> AsyncIterator[BattleEvent]:
        self._arena.begin(prompt)
        async for event in self.battle_events(battle):
            yield event

    async def battle_regenerate(self, battle: str) -> AsyncIterator[BattleEvent]:
        self._arena.calls.append(("regenerate", battle))
        assert self._arena.battle is not None
        self._arena.begin(self._arena.battle.turns.pop().prompt)
        async for event in self.battle_events(battle):
            yield event

    async def battle_stop(self, battle: str) -> BattleInfo:
        self._arena.calls.append(("stop", battle))
        self._stop()
        return self._arena.info()

    def _stop(self) -> None:
        arena = self._arena
        if arena.battle is not None and arena.battle.running:
            arena._answer("a").state = arena._answer("b").state = "stopped"
            arena._end()

    async def vote(self, battle: str, outcome: Outcome, *, reveal: bool = False) -> BattleInfo:
        self._arena.calls.append(("vote", outcome))
        assert self._arena.battle is not None
        if self._arena.battle.vote is not None:
            raise ApiError(409, "This battle has its vote already.", code="already_voted")
        self._stop()
        self._arena.battle.vote = outcome
        self._arena.battle.voted_at, self._arena.battle.undo_until = 100.0, 105.0
        return self._arena.info()

    async def undo(self, battle: str) -> BattleInfo:
        self._arena.calls.append(("undo", battle))
        assert self._arena.battle is not None
        if self._arena.battle.final:
            raise ApiError(409, "The vote is final.", code="final")
        self._arena.battle.vote = None
        self._arena.battle.undo_until = 0.0
        return self._arena.info()

    async def reveal(self, battle: str) -> BattleInfo:
        self._arena.calls.append(("reveal", battle))
        self._arena.finalize()
        return self._arena.info()

    async def leaderboard(self, query: LeaderboardQuery | None = None) -> Leaderboard:
        if self._arena.refuse is not None:
            raise self._arena.refuse
        self._arena.queries.append(query or LeaderboardQuery())
        return self._arena.board

    async def head_to_head(self, query: LeaderboardQuery | None = None) -> HeadToHead:
        return self._arena.heads

    async def votes(self, query: LeaderboardQuery | None = None, *, limit: int = 100, offset: int = 0) -> VoteList:
        return VoteList(self._arena.votes[offset : offset + limit], len(self._arena.votes))

    async def arena_export(self, form: str, query: LeaderboardQuery | None = None) -> AsyncIterator[bytes]:
        self._arena.calls.append(("export", form))
        if self._arena.refuse_files is not None:
            raise self._arena.refuse_files
        yield b'{"a": 1}\n'
        if self._arena.hold_export is not None:
            await self._arena.hold_export.wait()
        yield b'{"b": 2}\n'

    async def arena_import(self, data: bytes, form: str = "auto") -> ImportReport:
        if self._arena.refuse_files is not None:
            raise self._arena.refuse_files
        self._arena.imported.append(data)
        return ImportReport(data.count(b"\n"), 1, 1, {"no outcome": 1})
