"""The board: counts kept up to date vote by vote for the default query, and read from the database for any other."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from fcd.ratings.board import Board, board_of, plain_board
from fcd.ratings.bootstrap import quantile_interval
from fcd.ratings.bradley_terry import Fit, fit
from fcd.ratings.counts import SCORES, PairCounts
from fcd.ratings.elo import elo, elo_bootstrap
from fcd.ratings.outliers import FEWEST_VOTES, holm, judge_voter
from fcd.ratings.scale import Floats, Ints, win_probability
from fcd.ratings.style import FEATURES, fit_style, style_differences
from fcd.ratings.tables import head_to_head, records, win_rates
from fcd.settings import ArenaSettings
from fcd.wire.arena import (
    BoardRow,
    HeadToHead,
    Leaderboard,
    LeaderboardQuery,
    RatingChange,
    StyleEffect,
    VoterInfo,
)

T = TypeVar("T")

MOST_ROUNDS = 2000
_MOST_ELO_ROUNDS = 200
_CACHED = 32
_COLUMNS = "model_a, model_b, outcome, tokens_a, headers_a, lists_a, bold_a, tokens_b, headers_b, lists_b, bold_b"


@dataclass
class Votes:
    """The votes that a query is about, in the order in which they were given."""

    models: list[str]
    a: Ints
    b: Ints
    score: Floats
    style_a: Floats
    style_b: Floats

    def __len__(self) -> int:
        return len(self.score)

    @property
    def counts(self) -> PairCounts:
        return PairCounts.from_arrays(self.models, self.a, self.b, self.score)


def where_of(query: LeaderboardQuery, now: float) -> tuple[str, list[Any]]:
    """The SQL condition of a query over `votes`, and its parameters. Only final votes are ever seen."""
    parts: list[tuple[str, Sequence[Any]]] = [("final_at <= ?", [now])]
    sources = {"people": "source <> 'judge'", "judge": "source = 'judge'", "import": "source = 'import'"}
    if query.source in sources:
        parts.append((sources[query.source], []))
    if not query.named:
        parts.append(("mode = 'blind'", []))
    if not query.flagged:
        parts.append(("flags = ''", []))
    for condition, value in (
        ("at >= ?", query.since),
        ("at < ?", query.until),
        ("tokens_a + tokens_b >= ?", query.min_tokens),
        ("tokens_a + tokens_b <= ?", query.max_tokens),
        ("language = ?", query.language),
        ("tag = ?", query.tag),
        ("voter = ?", query.voter),
    ):
        if value:
            parts.append((condition, [value]))
    if query.models:
        marks = ", ".join("?" * len(query.models))
        parts.append((f"model_a IN ({marks}) AND model_b IN ({marks})", [*query.models, *query.models]))
    return " AND ".join(f"({part})" for part, _ in parts), [value for _, values in parts for value in values]


def read_votes(db: sqlite3.Connection, query: LeaderboardQuery, now: float) -> Votes:
    where, values = where_of(query, now)
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM votes WHERE outcome <> 'skip' AND {where} ORDER BY at, battle", values
    ).fetchall()
    index: dict[str, int] = {}
    a = np.array([index.setdefault(row[0], len(index)) for row in rows], dtype=np.int64)
    b = np.array([index.setdefault(row[1], len(index)) for row in rows], dtype=np.int64)
    score = np.array([SCORES[row[2]] for row in rows], dtype=np.float64)
    style = np.array([row[3:] for row in rows], dtype=np.float64).reshape(-1, 2 * len(FEATURES))
    return Votes(list(index), a, b, score, style[:, : len(FEATURES)], style[:, len(FEATURES) :])


@dataclass
class Pending:
    """A vote that is on disk but can still be taken back: it counts once its time has come."""

    final_at: float
    model_a: str
    model_b: str
    score: float


@dataclass
class Boards:
    """Answers every question about ratings. Heavy work is done in threads, on connections of their own."""

    database: Path
    settings: ArenaSettings
    clock: Callable[[], float]
    counts: PairCounts = field(default_factory=PairCounts)
    version: int = 0
    """Grows with every vote, undo and import."""
    _pending: dict[str, Pending] = field(default_factory=dict)
    _fit: Fit | None = None
    _cache: dict[tuple[int, bytes], Leaderboard] = field(default_factory=dict)
    _heavy: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))

    # The default board, kept up to date

    async def load(self) -> None:
        """Count what is in the database; after this, `voted` and its kin keep up."""
        self.counts, self._pending = await self._read(_load_counts)
        self._fit = None
        self.version += 1

    def voted(self, battle: str, pending: Pending | None) -> None:
        """A vote was written; None where it does not count on the default board."""
        self.version += 1
        if pending is not None:
            self._pending[battle] = pending

    def undone(self, battle: str) -> None:
        self.version += 1
        self._pending.pop(battle, None)

    def revealed(self, battle: str, vote: Pending | None) -> list[RatingChange]:
        """Count a vote now, and say what it does to the board as it is; None, and nothing, for one that does not count.

        One that became final by itself, today or before the daemon was last started, is counted already.
        """
        waited = self._pending.pop(battle, None)
        self._mature()
        if vote is None:
            return []
        if waited is None:
            self.counts.add(vote.model_a, vote.model_b, vote.score, -1.0)
        before = self._points()
        self._count(vote)
        board = self.board()
        return [self._change(model, before, board) for model in (vote.model_a, vote.model_b)]

    def current_counts(self) -> PairCounts:
        self._mature()
        return self.counts

    def board(self, intervals: str = "sandwich") -> Board:
        """The default board as it is now: a few milliseconds."""
        self._mature()
        self._fit = fit(self.counts, start=self._fit.theta if self._fit is not None else None)
        return board_of(self.counts, self._fit, intervals=intervals, anchor=self._anchor())

    def _points(self) -> dict[str, float]:
        board = self.board("none")
        return dict(zip(board.counts.models, board.ratings.tolist(), strict=True))

    def _change(self, model: str, before: dict[str, float], board: Board) -> RatingChange:
        row = board.counts.models.index(model)
        after = float(board.ratings[row])
        return RatingChange(model, before.get(model, 1000.0), after, float(board.upper[row] - board.lower[row]) / 2)

    def _mature(self) -> None:
        now = self.clock()
        for battle in [battle for battle, pending in self._pending.items() if pending.final_at <= now]:
            self._count(self._pending.pop(battle))

    def _count(self, vote: Pending) -> None:
        self.counts.add(vote.model_a, vote.model_b, vote.score)
        self.version += 1

    def _anchor(self) -> tuple[str, float] | None:
        return (self.settings.anchor, self.settings.anchor_rating) if self.settings.anchor else None

    # Any board

    async def leaderboard(self, query: LeaderboardQuery) -> Leaderboard:
        self._mature()
        key = (self.version, msgspec.json.encode(query))
        known = self._cache.get(key)
        if known is not None:
            return known
        if query == LeaderboardQuery():
            made = _leaderboard(self.board(), query, await self._left_out(query), self.clock())
        else:
            async with self._heavy:
                made = await asyncio.to_thread(self._compute, query)
        if len(self._cache) >= _CACHED:
            self._cache.clear()
        self._cache[key] = made
        return made

    async def head_to_head(self, query: LeaderboardQuery) -> HeadToHead:
        return await asyncio.to_thread(self._head_to_head, query)

    async def voters(self) -> list[VoterInfo]:
        async with self._heavy:
            return await asyncio.to_thread(self._voters)

    async def _left_out(self, query: LeaderboardQuery) -> int:
        return await self._read(lambda db, now: _count_left_out(db, query, now))

    def _compute(self, query: LeaderboardQuery) -> Leaderboard:
        now = self.clock()
        with _reading(self.database) as db:
            votes = read_votes(db, query, now)
            left_out = _count_left_out(db, query, now)
        if query.style_control:
            return self._styled(votes, query, left_out, now)
        return _leaderboard(self._plain(votes, query), query, left_out, now)

    def _plain(self, votes: Votes, query: LeaderboardQuery) -> Board:
        counts = votes.counts
        rounds = min(query.rounds, MOST_ROUNDS)
        if query.method == "elo":
            ratings = elo(len(counts), votes.a, votes.b, votes.score)
            if query.intervals == "none" or not len(votes):
                return plain_board(counts, ratings)
            few = min(rounds, _MOST_ELO_ROUNDS)
            samples = elo_bootstrap(len(counts), votes.a, votes.b, votes.score, rounds=few)
            return plain_board(counts, ratings, *quantile_interval(samples))
        return board_of(counts, fit(counts), intervals=query.intervals, rounds=rounds, anchor=self._anchor())

    def _styled(self, votes: Votes, query: LeaderboardQuery, left_out: int, now: float) -> Leaderboard:
        if not len(votes):
            return _leaderboard(self._plain(votes, query), query, left_out, now)
        features = style_differences(votes.style_a, votes.style_b)
        fitted = fit_style(len(votes.models), votes.a, votes.b, votes.score, features)
        made = _leaderboard(plain_board(votes.counts, fitted.ratings, fitted.lower, fitted.upper), query, left_out, now)
        ends = (fitted.points.tolist(), fitted.points_lower.tolist(), fitted.points_upper.tolist())
        made.style = [StyleEffect(*each) for each in zip(FEATURES, *ends, strict=True)]
        return made

    def _head_to_head(self, query: LeaderboardQuery) -> HeadToHead:
        with _reading(self.database) as db:
            counts = read_votes(db, query, self.clock()).counts
        board = board_of(counts, fit(counts), intervals="none")
        order = board.order
        grid = np.ix_(order, order)
        rates = head_to_head(counts)[grid]
        return HeadToHead(
            [counts.models[row] for row in order],
            counts.games[grid].astype(int).tolist(),
            counts.scores[grid].tolist(),
            [[None if np.isnan(rate) else rate for rate in row] for row in rates.tolist()],
            win_probability(fit(counts).theta)[grid].tolist(),
        )

    def _voters(self) -> list[VoterInfo]:
        now = self.clock()
        query = LeaderboardQuery(named=True, flagged=False)
        where, values = where_of(query, now)
        with _reading(self.database) as db:
            rows = db.execute(
                f"SELECT voter, model_a, model_b, outcome, at FROM votes WHERE outcome <> 'skip' AND {where}", values
            ).fetchall()
        return _judge_voters(rows)

    async def _read(self, work: Callable[[sqlite3.Connection, float], T]) -> T:
        def read() -> T:
            with _reading(self.database) as db:
                return work(db, self.clock())

        return await asyncio.to_thread(read)


class _reading:
    """A connection that cannot write, closed at the end."""

    def __init__(self, database: Path) -> None:
        self._db = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, check_same_thread=False)

    def __enter__(self) -> sqlite3.Connection:
        return self._db

    def __exit__(self, *_: object) -> None:
        self._db.close()


def reading(database: Path) -> _reading:
    return _reading(database)


def _load_counts(db: sqlite3.Connection, now: float) -> tuple[PairCounts, dict[str, Pending]]:
    where, values = where_of(LeaderboardQuery(), now)
    counts = PairCounts()
    for model_a, model_b, outcome, times in db.execute(
        "SELECT model_a, model_b, outcome, count(*) FROM votes"
        f" WHERE outcome <> 'skip' AND {where} GROUP BY model_a, model_b, outcome ORDER BY min(at)",
        values,
    ):
        counts.add(model_a, model_b, SCORES[outcome], times)
    late = db.execute(
        "SELECT battle, final_at, model_a, model_b, outcome FROM votes WHERE final_at > ? AND outcome <> 'skip'"
        " AND mode = 'blind' AND flags = '' AND source <> 'judge'",
        (now,),
    )
    return counts, {row[0]: Pending(row[1], row[2], row[3], SCORES[row[4]]) for row in late}


def _count_left_out(db: sqlite3.Connection, query: LeaderboardQuery, now: float) -> int:
    where, values = where_of(query, now)
    total: int = db.execute("SELECT count(*) FROM votes WHERE final_at <= ?", (now,)).fetchone()[0]
    kept: int = db.execute(f"SELECT count(*) FROM votes WHERE outcome <> 'skip' AND {where}", values).fetchone()[0]
    return total - kept


def _leaderboard(board: Board, query: LeaderboardQuery, left_out: int, now: float) -> Leaderboard:
    counts = board.counts
    wins, losses, ties = records(counts)
    rates = win_rates(counts)
    rows = [
        BoardRow(
            int(board.ranks[row]), counts.models[row], float(board.ratings[row]), float(board.lower[row]),
            float(board.upper[row]), round(wins[row] + losses[row] + ties[row]), round(wins[row]), round(losses[row]),
            round(ties[row]), float(rates[row]),
        )
        for row in board.order
    ]  # fmt: skip
    return Leaderboard(rows, round(counts.total), left_out, query.method, query.intervals, [], now)


def _judge_voters(rows: list[tuple[str, str, str, str, float]]) -> list[VoterInfo]:
    """Each voter against the ratings of everybody else's votes."""
    everyone = PairCounts()
    mine: dict[str, list[tuple[str, str, str, float]]] = {}
    for voter, model_a, model_b, outcome, at in rows:
        everyone.add(model_a, model_b, SCORES[outcome])
        mine.setdefault(voter, []).append((model_a, model_b, outcome, at))
    made: list[VoterInfo] = []
    whole = fit(everyone)
    for voter, votes in mine.items():
        others = everyone.copy()
        for model_a, model_b, outcome, _ in votes:
            others.add(model_a, model_b, SCORES[outcome], -1.0)
        chances = win_probability(fit(others, start=whole.theta).theta)
        chosen = [
            chances[others.index(a), others.index(b)] if outcome == "a" else chances[others.index(b), others.index(a)]
            for a, b, outcome, _ in votes
            if outcome in ("a", "b")
        ]
        test = judge_voter(np.array(chosen))
        made.append(
            VoterInfo(
                voter, len(votes), test.agreement, test.expected, test.p_value, False, max(vote[3] for vote in votes)
            )
        )
    tested = [info for info in made if info.votes >= FEWEST_VOTES]
    for info, rejected in zip(tested, holm([info.p_value for info in tested]), strict=True):
        info.outlier = rejected
    return sorted(made, key=lambda info: -info.votes)
