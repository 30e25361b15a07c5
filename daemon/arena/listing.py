"""Lists of votes and pairs, read from the database."""

from __future__ import annotations

import sqlite3

from daemon.arena.board import where_of
from daemon.arena.pairing import games_between, information_gain
from fcd.ratings.counts import PairCounts
from fcd.ratings.tables import wilson
from fcd.wire.arena import Agreement, LeaderboardQuery, PairInfo, VoteList, VoteRecord

_SHORT = 200
_MOST_PAIRS = 20_000


def list_votes(db: sqlite3.Connection, query: LeaderboardQuery, now: float, limit: int, offset: int) -> VoteList:
    """Final votes that a query is about, newest first. Skipped battles are no votes."""
    where, values = where_of(query, now)
    where = f"{where} AND votes.outcome <> 'skip'"
    total: int = db.execute(f"SELECT count(*) FROM votes WHERE {where}", values).fetchone()[0]
    rows = db.execute(
        "SELECT votes.battle, at, model_a, model_b, outcome, voter, source, mode, turns, language, tag, flags,"
        " tokens_a, tokens_b, coalesce(substr(turns.prompt, 1, ?), ''), judge FROM (SELECT * FROM votes WHERE"
        f" {where} ORDER BY at DESC, battle LIMIT ? OFFSET ?) AS votes"
        " LEFT JOIN turns ON turns.battle = votes.battle AND turns.turn = 0 ORDER BY at DESC, votes.battle",
        [_SHORT, *values, limit, offset],
    )
    return VoteList([_record(row) for row in rows], total)


def list_pairs(counts: PairCounts) -> list[PairInfo]:
    """Every pair, the one whose next vote teaches most first."""
    models = list(counts.models)
    if len(models) < 2:
        return []
    gains, games = information_gain(models, counts), games_between(models, counts)
    made = [
        PairInfo(models[row], models[column], round(games[row, column]), float(gains[row, column]))
        for row in range(len(models))
        for column in range(row + 1, len(models))
    ]
    made.sort(key=lambda pair: -pair.gain)
    return made[:_MOST_PAIRS]


def agreement(db: sqlite3.Connection, judge: str, now: float) -> Agreement:
    """Of a judge's votes with people's on the same models and the same prompts; sides may be swapped.

    Ties (of either kind) agree with ties. Each pair of a judge's and a person's vote is one comparison.
    """
    rows = db.execute(
        "SELECT j.model_a, j.outcome, p.model_a, p.outcome FROM votes AS j JOIN votes AS p ON j.question = p.question"
        " AND p.source <> 'judge' AND ((p.model_a = j.model_a AND p.model_b = j.model_b)"
        " OR (p.model_a = j.model_b AND p.model_b = j.model_a))"
        " WHERE j.source = 'judge' AND j.judge = ? AND j.question <> '' AND j.outcome <> 'skip' AND p.outcome <> 'skip'"
        " AND p.final_at <= ? AND j.final_at <= ?",
        (judge, now, now),
    ).fetchall()
    agreed = sum(_side(outcome, first == other) == _side(said, True) for first, said, other, outcome in rows)
    lower, upper = wilson(agreed, len(rows))
    return Agreement(judge, len(rows), agreed, agreed / len(rows) if rows else 0.0, lower, upper)


def _side(outcome: str, same: bool) -> str:
    """Who won, told from the judge's sides."""
    if outcome in ("tie", "both_bad"):
        return "tie"
    return outcome if same else {"a": "b", "b": "a"}[outcome]


def _record(row: tuple[object, ...]) -> VoteRecord:
    made = VoteRecord(*row)  # type: ignore[arg-type]
    made.flags = str(row[11]).split()
    return made
