"""The arena: draws models, lets them write, takes votes, tells names after them."""

from __future__ import annotations

import asyncio
import difflib
import random
import sqlite3
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

import msgspec

from daemon.arena import records
from daemon.arena.asking import Asker, GatewayAsker
from daemon.arena.board import Boards, Pending
from daemon.arena.exchange import add, judged_battle
from daemon.arena.flags import flags_of
from daemon.arena.language import language_of
from daemon.arena.live import LiveBattle
from daemon.arena.masking import Vocabulary
from daemon.arena.pairing import choose_pair
from daemon.arena.records import StoredBattle, StoredTurn, StoredVote
from daemon.context import DaemonContext
from fcd.errors import ApiError, invalid, model_not_found
from fcd.ratings.counts import SCORES
from fcd.wire.admin import DaemonEvent, ModelInfo
from fcd.wire.arena import BattleEvent, BattleInfo, BattleRequest, ImportReport, JudgedPair, Outcome, Sampling

_IN_MEMORY = 512
_DOWN = frozenset({"pending", "failed", "backoff", "lost", "stopping", "stopped"})
_HOUR_S = 3600.0
_LONGEST_NAME = 100

LOCAL = "local"
"""Owner of the battles of this machine's own user."""


class Voter(msgspec.Struct, frozen=True):
    """Who is calling: what they may see, and under which name their votes are counted."""

    owner: str
    name: str
    sees_all: bool = False


class Arena:
    """One per daemon. Every vote is on disk before `vote` returns."""

    def __init__(
        self,
        context: DaemonContext,
        *,
        asker: Asker | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._context = context
        self.settings = context.settings.arena
        self._store = context.store
        self._clock = context.clock
        self._gateway = GatewayAsker(context)
        self._asker = asker or self._gateway
        self._rng = rng or random.SystemRandom()
        self._battles: dict[str, LiveBattle] = {}
        self._tasks: set[asyncio.Task[BattleInfo]] = set()
        self.boards = Boards(context.paths.database, self.settings, context.clock)
        self._loading: asyncio.Task[None] | None = None
        self._loaded = False

    async def ready(self) -> None:
        """The votes of former days are counted, once."""
        if self._loaded:
            return
        if self._loading is None:
            self._loading = asyncio.get_running_loop().create_task(self.boards.load())
        try:
            await asyncio.shield(self._loading)
            self._loaded = True
        except Exception:
            self._loading = None
            raise

    async def close(self) -> None:
        """Stop what is being written, and keep it."""
        for battle in list(self._battles.values()):
            await battle.stop()
        await self._gateway.close()

    # Battles

    async def create(
        self, request: BattleRequest, voter: Voter, *, history: list[dict[str, Any]] | None = None
    ) -> BattleInfo:
        await self.ready()
        self._check_sampling(request.sampling)
        if request.prompt:
            self._check_prompt(request.prompt)
        model_a, model_b = self._models_for(request)
        stored = StoredBattle(
            records.new_id(),
            self._clock(),
            request.mode,
            "person",
            model_a,
            model_b,
            system=request.system,
            history=history or [],
            sampling=request.sampling,
            owner=voter.owner,
            voter=voter.name,
            tag=request.pool,
        )
        if request.prompt:
            self._check_room()
        await self._store.run(lambda db: records.add_battle(db, stored))
        battle = self._keep(LiveBattle(stored, [], None, self._vocabulary(stored)))
        if request.prompt:
            await self.turn(stored.id, request.prompt, voter)
        return battle.info(self._clock())

    async def get(self, battle: str, voter: Voter) -> BattleInfo:
        return (await self._find(battle, voter)).info(self._clock())

    async def recent(self, voter: Voter, limit: int) -> list[BattleInfo]:
        owner = None if voter.sees_all else voter.owner
        found = await self._store.run(lambda db: records.list_battles(db, owner, limit))
        now = self._clock()
        empty = Vocabulary(())
        return [LiveBattle(stored, [], vote, empty).info(now, turns=False) for stored, vote in found]

    async def turn(self, battle: str, prompt: str, voter: Voter) -> LiveBattle:
        """Ask both sides the next question; they write on whoever watches."""
        self._check_prompt(prompt)
        live = await self._find(battle, voter)
        async with live.lock:
            self._check_open(live)
            if len(live.turns) >= self.settings.max_turns:
                raise ApiError(409, f"A battle has at most {self.settings.max_turns} turns: vote.", code="too_long")
            await self._begin(live, len(live.turns), prompt)
        return live

    async def regenerate(self, battle: str, voter: Voter) -> LiveBattle:
        """Both answers of the last turn again."""
        live = await self._find(battle, voter)
        async with live.lock:
            self._check_open(live)
            if not live.turns:
                raise ApiError(409, "There is no answer yet that could be written again.", code="no_turn")
            await self._begin(live, len(live.turns) - 1, live.turns[-1].prompt)
        return live

    async def stop(self, battle: str, voter: Voter) -> BattleInfo:
        live = await self._find(battle, voter)
        await live.stop()
        return live.info(self._clock())

    async def watch(self, battle: str, voter: Voter) -> AsyncGenerator[BattleEvent, None]:
        return (await self._find(battle, voter)).watch(self._clock)

    def was_cut(self, battle: str) -> bool:
        """Whether side a's last answer ended at the token limit; for a battle that was just written."""
        live = self._battles.get(battle)
        if live is None or not live.turns:
            return False
        stats = live.running.writers["a"].stats if live.running is not None else live.turns[-1].a.stats
        return stats.finish_reason == "length"

    async def _begin(self, live: LiveBattle, number: int, prompt: str) -> None:
        self._check_room()

        async def save(turn: int, written: StoredTurn) -> None:
            await self._store.run(lambda db: records.put_turn(db, live.stored.id, turn, written))

        live.begin(number, prompt, self._asker, save)
        empty = StoredTurn(prompt)
        await self._store.run(lambda db: records.put_turn(db, live.stored.id, number, empty))

    # Votes

    async def vote(self, battle: str, outcome: Outcome, voter: Voter, *, reveal: bool = False) -> BattleInfo:
        """Written and flushed before this returns; a battle's second vote is refused."""
        live = await self._find(battle, voter)
        return await self._whole(self._vote(live, outcome, reveal))

    async def undo(self, battle: str, voter: Voter) -> BattleInfo:
        """Take the vote back, while it is not final."""
        live = await self._find(battle, voter)
        return await self._whole(self._undo(live))

    async def reveal(self, battle: str, voter: Voter) -> BattleInfo:
        """Who they were; from now on the vote is final."""
        live = await self._find(battle, voter)
        return await self._whole(self._reveal(live))

    async def _whole(self, work: Coroutine[Any, Any, BattleInfo]) -> BattleInfo:
        """Run to the end although the client may leave: what is on disk and what is in memory must stay the same."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _vote(self, live: LiveBattle, outcome: Outcome, reveal: bool) -> BattleInfo:
        async with live.lock:
            if live.vote is not None:
                raise ApiError(409, f"This battle has its vote already: '{live.vote.outcome}'.", code="already_voted")
            self._check_votable(live, outcome)
            await live.stop()
            now = self._clock()
            vote = StoredVote(live.stored.id, now, now if reveal else now + self.settings.undo_s, outcome)
            vote.flags = flags_of(live.stored, live.turns)
            await self._store.run(lambda db: self._write_vote(db, live, vote, now))
            live.vote = vote
            self._voted(live, vote)
            if reveal:
                self._count(live)
            else:
                asyncio.get_running_loop().call_later(self.settings.undo_s, self.publish)
            live.announce(self._clock())
            live.close_watchers()
        return live.info(self._clock())

    async def _undo(self, live: LiveBattle) -> BattleInfo:
        async with live.lock:
            now = self._clock()
            await self._store.run(lambda db: records.undo_vote(db, live.stored.id, now))
            live.vote = None
            self.boards.undone(live.stored.id)
        return live.info(self._clock())

    async def _reveal(self, live: LiveBattle) -> BattleInfo:
        async with live.lock:
            if live.vote is None or not live.vote.is_final(self._clock()) or not live.ratings:
                now = self._clock()
                live.vote = await self._store.run(lambda db: records.finalize_vote(db, live.stored.id, now))
                self._count(live)
        return live.info(self._clock())

    def _write_vote(self, db: sqlite3.Connection, live: LiveBattle, vote: StoredVote, now: float) -> None:
        limit = self.settings.votes_per_hour
        if limit and records.votes_since(db, live.stored.voter, now - _HOUR_S) >= limit:
            raise ApiError(
                429,
                f"'{live.stored.voter}' has given {limit} votes within the hour (arena.votes_per_hour).",
                code="rate_limited",
                retry_after=60,
            )
        language = language_of(" ".join(turn.prompt for turn in live.turns))
        question = records.question_key([turn.prompt for turn in live.turns])
        records.add_vote(db, live.stored, live.turns, vote, language=language, question=question)

    def _voted(self, live: LiveBattle, vote: StoredVote) -> None:
        counts = vote.outcome != "skip" and live.is_blind and not vote.flags
        live.rated = counts
        self.boards.voted(live.stored.id, _pending(live))

    def _count(self, live: LiveBattle) -> None:
        """Count a vote that is final now, and tell those who watch the board."""
        live.ratings = self.boards.revealed(live.stored.id, _pending(live))
        self.publish()

    async def take_judgment(self, pair: JudgedPair) -> ImportReport:
        """Keep a judge's verdict, once for the same answers. It counts on judges' boards only."""
        battle = judged_battle(pair, self._clock())

        def write(db: sqlite3.Connection) -> bool:
            if records.has_origin(db, battle.stored.origin):
                return False
            add(db, battle)
            return True

        added = await self._store.run(write)
        self.boards.voted(battle.stored.id, None)
        self.publish()
        return ImportReport(int(added), int(not added), 0)

    async def reload(self) -> None:
        """Count everything again, after an import."""
        await self.boards.load()
        self.publish()

    def publish(self) -> None:
        """Tell watchers of the daemon that votes changed."""
        hub = getattr(self._context.controller, "hub", None)
        if hub is not None:
            hub.publish(DaemonEvent("arena", name="votes"))

    # Checks

    def _check_open(self, live: LiveBattle) -> None:
        if live.vote is not None:
            raise ApiError(409, "This battle has its vote: start another.", code="already_voted")
        if live.running is not None:
            raise ApiError(409, "Both sides are still writing: wait, stop them, or vote.", code="still_writing")
        if self._context.draining:
            raise ApiError(503, "The daemon is shutting down.", code="shutting_down", retry_after=5)

    def _check_votable(self, live: LiveBattle, outcome: Outcome) -> None:
        if outcome == "skip":
            return
        texts = [answer.text or answer.error for turn in live.info(self._clock()).turns for answer in (turn.a, turn.b)]
        if not any(texts):
            raise ApiError(409, "There is nothing to vote on yet: no answer has begun.", code="no_turn")

    def _check_prompt(self, prompt: str) -> None:
        most = self.settings.max_prompt_chars
        if not prompt.strip() or len(prompt) > most:
            raise invalid("prompt", f"'prompt' must hold 1 to {most} characters (arena.max_prompt_chars).")

    def _check_sampling(self, sampling: Sampling) -> None:
        for name, low, high in (("temperature", 0.0, 2.0), ("top_p", 0.0, 1.0), ("max_tokens", 1, 2**31 - 1)):
            if not low <= getattr(sampling, name) <= high:
                raise invalid(f"sampling.{name}", f"'sampling.{name}' must be between {low} and {high}.")

    def _check_room(self) -> None:
        running = sum(battle.running is not None for battle in self._battles.values())
        if running >= self.settings.max_running:
            raise ApiError(
                429, f"{running} battles are being written (arena.max_running).", code="overloaded", retry_after=5
            )

    # Models

    def _models_for(self, request: BattleRequest) -> tuple[str, str]:
        known = {model.name: model for model in self._context.controller.models()}
        wanted = list(dict.fromkeys(request.models))
        if request.pool:
            if request.pool not in self.settings.pools:
                names = ", ".join(sorted(self.settings.pools)) or "none"
                raise invalid("pool", f"There is no pool '{request.pool[:100]}' in arena.pools; there are: {names}.")
            wanted = list(dict.fromkeys(self.settings.pools[request.pool]))
        for name in wanted:
            if name not in known:
                raise model_not_found(name[:200], difflib.get_close_matches(name, list(known), n=2))
        if request.mode == "named":
            if len(wanted) != 2:
                raise invalid("models", "A named battle needs exactly two different models.")
            return wanted[0], wanted[1]
        candidates = [name for name in wanted if known[name].state not in _DOWN] if wanted else _default_pool(known)
        method = request.pairing or self.settings.pairing
        try:
            return choose_pair(
                candidates, method, self.boards.current_counts(), self._rng, weights=self.settings.weights
            )
        except ValueError:
            raise ApiError(
                409,
                "A battle needs two models that can answer; `fcd ls` shows what there is, `fcd load MODEL` loads one.",
                code="too_few_models",
            ) from None

    def _vocabulary(self, stored: StoredBattle) -> Vocabulary:
        names = {model.name for model in self._context.controller.models()}
        return Vocabulary([*sorted(names), stored.model_a, stored.model_b])

    def can_battle(self) -> bool:
        """Whether two models could be drawn now."""
        return len(_default_pool({model.name: model for model in self._context.controller.models()})) >= 2

    def leader(self) -> str:
        """The loaded model that leads the board, by name where none has votes; else the first that can be loaded.

        Raises:
            ApiError: 503, none is loaded, and none that has votes can be.
        """
        models = self._context.controller.models()
        ready = {model.name for model in models if model.state == "ready"}
        loadable = {model.name for model in models if model.source != "worker" and model.state not in _DOWN}
        board = self.boards.board("none")
        order = [board.counts.models[row] for row in board.order]
        for wanted in (ready, loadable):
            found = next((name for name in order if name in wanted), None)
            if found is None and wanted is ready and ready:
                return sorted(ready)[0]
            if found is not None:
                return found
        raise ApiError(
            503,
            "No model is loaded that 'best' could be, and none that has votes can be: `fcd load MODEL` loads one.",
            code="no_worker",
            param="model",
        )

    # Keeping

    async def _find(self, battle: str, voter: Voter) -> LiveBattle:
        """The battle, from memory or the database; one that is somebody else's does not exist."""
        await self.ready()
        live = self._battles.get(battle)
        if live is None:
            live = await self._load(battle)
        if live is None or not (voter.sees_all or voter.owner == live.stored.owner):
            raise ApiError(404, "There is no such battle.", code="battle_not_found")
        return live

    async def _load(self, battle: str) -> LiveBattle | None:
        def read(db: sqlite3.Connection) -> tuple[StoredBattle | None, list[StoredTurn], StoredVote | None]:
            return records.get_battle(db, battle), records.get_turns(db, battle), records.get_vote(db, battle)

        stored, turns, vote = await self._store.run(read)
        if stored is None:
            return None
        known = self._battles.get(battle)
        if known is not None:  # somebody else was faster
            return known
        live = LiveBattle(stored, turns, vote, self._vocabulary(stored))
        live.rated = vote is not None and vote.outcome != "skip" and live.is_blind and not vote.flags
        return self._keep(live)

    def _keep(self, live: LiveBattle) -> LiveBattle:
        if len(self._battles) >= _IN_MEMORY:
            for name, battle in list(self._battles.items()):
                if battle.running is None and not battle.watchers and not battle.lock.locked():
                    del self._battles[name]
                    if len(self._battles) < _IN_MEMORY:
                        break
        self._battles[live.stored.id] = live
        return live


def voter_of(kind: str, name: str, given: str = "") -> Voter:
    """From the caller that the security checks found, and the name that the request gives."""
    label = "".join(each for each in given.strip() if each.isprintable())[:_LONGEST_NAME]
    if kind == "key":
        owner = f"key:{name}"
        return Voter(owner, f"{owner}/{label}" if label else owner)
    return Voter(LOCAL, label or LOCAL, sees_all=kind == "admin")


def _pending(live: LiveBattle) -> Pending | None:
    """The battle's vote as the board counts it; None where it does not."""
    vote, stored = live.vote, live.stored
    if vote is None or not live.rated or stored.source == "judge":
        return None
    return Pending(vote.final_at, stored.model_a, stored.model_b, SCORES[vote.outcome])


def _default_pool(known: dict[str, ModelInfo]) -> list[str]:
    """What is loaded; where that is not two, what can be loaded without a download."""
    ready = [name for name, model in known.items() if model.state == "ready"]
    if len(ready) >= 2:
        return ready
    near = [
        name
        for name, model in known.items()
        if name not in ready and model.state not in _DOWN and model.source in ("builtin", "config")
    ]
    return ready + near
