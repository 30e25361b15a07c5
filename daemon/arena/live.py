"""A battle that is in memory: its turns, what is being written, who watches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from daemon.arena.asking import Asker
from daemon.arena.counting import count_cut
from daemon.arena.masking import Vocabulary, masked
from daemon.arena.pacing import Pacer
from daemon.arena.records import StoredAnswer, StoredBattle, StoredTurn, StoredVote
from daemon.arena.writing import HIDDEN_ERROR, Writer
from fcd.wire.arena import Answer, AnswerStats, BattleEvent, BattleInfo, RatingChange, Side, Turn

TICK_S = 0.05
"""How often what has come is shown: 20 times a second."""

_QUEUE = 4096
_SIDES: tuple[Side, Side] = ("a", "b")

Save = Callable[[int, StoredTurn], Awaitable[None]]


class Watcher:
    """Events that one client has not been sent yet; one that is too slow is let go and may come back."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[BattleEvent | None] = asyncio.Queue(_QUEUE)
        self.closed = False

    def offer(self, event: BattleEvent | None) -> None:
        if self.closed:
            return
        if event is None or self._queue.full():
            self.closed = True
            while self._queue.full():
                self._queue.get_nowait()
            event = None
        self._queue.put_nowait(event)

    async def next(self) -> BattleEvent | None:
        return await self._queue.get()


class Running:
    """The turn that is being written: two writers, and how far each is shown."""

    def __init__(self, writers: dict[Side, Writer]) -> None:
        self.writers = writers
        self.shown: dict[Side, int] = {"a": 0, "b": 0}
        self.ended: set[Side] = set()
        self.task: asyncio.Task[None] | None = None
        self.stopping = False


class LiveBattle:
    """One battle. Only `Arena` calls what changes it, holding `lock`."""

    def __init__(
        self,
        stored: StoredBattle,
        turns: list[StoredTurn],
        vote: StoredVote | None,
        vocabulary: Vocabulary,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stored = stored
        self.turns = turns
        self.vote = vote
        self.lock = asyncio.Lock()
        self.running: Running | None = None
        self.ratings: list[RatingChange] = []
        self.rated = False
        self.watchers: set[Watcher] = set()
        self._vocabulary = vocabulary
        self._clock = clock
        self._shown: list[tuple[str, str]] = [self._masked(turn) for turn in turns]

    @property
    def is_blind(self) -> bool:
        return self.stored.mode == "blind"

    def _sides(self) -> dict[Side, str]:
        return {"a": self.stored.model_a, "b": self.stored.model_b}

    # Writing

    def begin(self, number: int, prompt: str, asker: Asker, save: Save) -> None:
        """Let both sides write turn `number`, the one after the last or the last again."""
        messages = {side: self._messages(side, number, prompt) for side in _SIDES}
        models = self._sides()
        vocabulary = self._vocabulary if self.is_blind else None
        running = Running({side: Writer(models[side], vocabulary, self._clock) for side in _SIDES})
        if number == len(self.turns):
            self.turns.append(StoredTurn(prompt))
            self._shown.append(("", ""))
        else:
            self.turns[number] = StoredTurn(prompt)
            self._shown[number] = ("", "")
        self.running = running
        running.task = asyncio.get_running_loop().create_task(self._write(running, number, messages, asker, save))

    async def stop(self) -> None:
        """Stop both sides, keep what was shown, and wait until it is kept."""
        running = self.running
        if running is None or running.task is None:
            return
        if not running.stopping:  # a second cancellation would end what keeps the answers
            running.stopping = True
            running.task.cancel()
        await asyncio.wait((running.task,))

    async def _write(
        self, running: Running, number: int, messages: dict[Side, list[dict[str, Any]]], asker: Asker, save: Save
    ) -> None:
        tasks = [
            asyncio.ensure_future(writer.run(asker, messages[side], self.stored.sampling))
            for side, writer in running.writers.items()
        ]
        pacer = Pacer()
        try:
            while len(running.ended) < len(_SIDES):
                await asyncio.sleep(TICK_S)
                self._show(running, pacer, number)
            turn = self.turns[number]
            turn.a, turn.b = (running.writers[side].answer() for side in _SIDES)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._cut(running, number)
            await count_cut(asker, self._sides(), self.turns[number])
        try:
            await save(number, self.turns[number])
        finally:
            self.running = None
            self._tell(BattleEvent("end", turn=number))
            self.close_watchers()

    def _show(self, running: Running, pacer: Pacer, number: int) -> None:
        now = self._clock()
        for side, pace in zip(_SIDES, (pacer.a, pacer.b), strict=True):
            writer = running.writers[side]
            pace.grow(len(writer.ready), now)
            if writer.is_over:
                pace.end(now)
        pacer.advance(now)
        events: list[BattleEvent] = []
        for side, pace in zip(_SIDES, (pacer.a, pacer.b), strict=True):
            writer = running.writers[side]
            until = pacer.shown(pace) if self.is_blind else len(writer.ready)
            if until > running.shown[side]:
                text = writer.ready[running.shown[side] : until]
                events.append(BattleEvent("delta", turn=number, side=side, text=text))
                running.shown[side] = until
            over = pacer.is_over(pace) if self.is_blind else writer.is_over
            if over and side not in running.ended:
                running.ended.add(side)
                events.append(self._ending(writer, side, number))
        for event in events:
            self._tell(event)
        self._shown[number] = (
            running.writers["a"].ready[: running.shown["a"]],
            running.writers["b"].ready[: running.shown["b"]],
        )

    def _ending(self, writer: Writer, side: Side, number: int) -> BattleEvent:
        if writer.state == "failed":
            error = HIDDEN_ERROR if self.is_blind else writer.error
            return BattleEvent("failed", turn=number, side=side, error=error)
        return BattleEvent("done", turn=number, side=side)

    def _cut(self, running: Running, number: int) -> None:
        """It was stopped: what was shown is the answer."""
        turn = self.turns[number]
        for side in _SIDES:
            writer = running.writers[side]
            writer.stop()
            answer = writer.answer(running.shown[side])
            if side not in running.ended and answer.state == "done":
                answer.state = "stopped"
            setattr(turn, side, answer)

    def _messages(self, side: Side, number: int, prompt: str) -> list[dict[str, Any]]:
        messages = [{"role": "system", "content": self.stored.system}] if self.stored.system else []
        messages += self.stored.history
        for turn in self.turns[:number]:
            answer: StoredAnswer = getattr(turn, side)
            messages += [{"role": "user", "content": turn.prompt}, {"role": "assistant", "content": answer.text}]
        return [*messages, {"role": "user", "content": prompt}]

    # Showing

    def info(self, now: float, *, turns: bool = True) -> BattleInfo:
        """As its voter may see it at `now` (Unix seconds)."""
        vote, stored = self.vote, self.stored
        final = vote is not None and vote.is_final(now)
        known = final or not self.is_blind
        made = BattleInfo(stored.id, stored.mode, stored.created_at, running=self.running is not None, final=final)
        if turns:
            made.turns = [self._turn(number, known) for number in range(len(self.turns))]
        if vote is not None:
            made.vote, made.voted_at = vote.outcome, vote.at
            made.undo_until = 0.0 if final else vote.final_at
        if known:
            made.model_a, made.model_b = stored.model_a, stored.model_b
        if vote is not None and final:
            made.flags, made.rated, made.ratings = list(vote.flags), self.rated, self.ratings
        return made

    def _turn(self, number: int, known: bool) -> Turn:
        turn = self.turns[number]
        running = self.running if number == len(self.turns) - 1 else None
        return Turn(turn.prompt, *(self._answer(number, side, turn, running, known) for side in _SIDES))

    def _answer(self, number: int, side: Side, turn: StoredTurn, running: Running | None, known: bool) -> Answer:
        if running is not None and side not in running.ended:
            text = self._shown[number][_SIDES.index(side)]
            return Answer(text, "writing" if text else "waiting")
        if running is not None:
            writer = running.writers[side]
            stored = writer.answer()
        else:
            stored = getattr(turn, side)
        error = stored.error if known else (HIDDEN_ERROR if stored.state == "failed" else "")
        if not known:
            return Answer(self._shown[number][_SIDES.index(side)], stored.state, error)
        stats: AnswerStats = stored.stats
        return Answer(stored.text, stored.state, error, stats)

    def _masked(self, turn: StoredTurn) -> tuple[str, str]:
        if not self.is_blind:
            return turn.a.text, turn.b.text
        return masked(turn.a.text, self._vocabulary), masked(turn.b.text, self._vocabulary)

    # Watching

    async def watch(self, now: Callable[[], float]) -> AsyncGenerator[BattleEvent, None]:
        """The battle, then what is new until the turn ends."""
        watcher = Watcher()
        self.watchers.add(watcher)
        try:
            yield BattleEvent("battle", battle=self.info(now()))
            if self.running is None:
                yield BattleEvent("end", turn=max(0, len(self.turns) - 1))
                return
            while (event := await watcher.next()) is not None:
                yield event
        finally:
            self.watchers.discard(watcher)

    def announce(self, now: float) -> None:
        self._tell(BattleEvent("battle", battle=self.info(now)))

    def close_watchers(self) -> None:
        for watcher in self.watchers:
            watcher.offer(None)

    def _tell(self, event: BattleEvent) -> None:
        for watcher in self.watchers:
            watcher.offer(event)
