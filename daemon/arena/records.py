"""Battles, turns and votes in the database. Functions of a connection; each call of `Store.run` is one transaction."""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from fcd.errors import ApiError
from fcd.ratings.style import markdown_counts
from fcd.wire.arena import AnswerState, AnswerStats, Mode, Outcome, Sampling

Source = Literal["person", "judge", "import"]

_BATTLE_FIELDS = (
    "id, created_at, mode, source, model_a, model_b, system, history, sampling, owner, voter, tag, judge, detail,"
    " origin"
)


class StoredAnswer(msgspec.Struct):
    """One side of one turn as it was written, names and all."""

    text: str = ""
    state: AnswerState = "waiting"
    error: str = ""
    stats: AnswerStats = msgspec.field(default_factory=AnswerStats)


class StoredTurn(msgspec.Struct):
    prompt: str
    a: StoredAnswer = msgspec.field(default_factory=StoredAnswer)
    b: StoredAnswer = msgspec.field(default_factory=StoredAnswer)


class StoredBattle(msgspec.Struct):
    """A battle without its turns."""

    id: str
    created_at: float
    mode: Mode
    source: Source
    model_a: str
    model_b: str
    system: str = ""
    history: list[dict[str, Any]] = []
    """Messages before the first turn."""
    sampling: Sampling = msgspec.field(default_factory=Sampling)
    owner: str = ""
    """Who may see it: `local`, or a key's id."""
    voter: str = ""
    tag: str = ""
    judge: str = ""
    detail: dict[str, Any] = {}
    origin: str = ""


class StoredVote(msgspec.Struct):
    battle: str
    at: float
    final_at: float
    outcome: Outcome
    flags: list[str] = []

    def is_final(self, now: float) -> bool:
        return now >= self.final_at


def new_id() -> str:
    """128 random bits: nothing about the battle, and not to be guessed."""
    return secrets.token_hex(16)


def add_battle(db: sqlite3.Connection, battle: StoredBattle) -> None:
    db.execute(
        f"INSERT INTO battles ({_BATTLE_FIELDS}) VALUES ({', '.join('?' * 15)})",
        (
            battle.id, battle.created_at, battle.mode, battle.source, battle.model_a, battle.model_b, battle.system,
            _json(battle.history), _json(battle.sampling), battle.owner, battle.voter, battle.tag, battle.judge,
            _json(battle.detail), battle.origin,
        ),
    )  # fmt: skip


def put_turn(db: sqlite3.Connection, battle: str, number: int, turn: StoredTurn) -> None:
    """Write or overwrite one turn."""
    db.execute(
        "INSERT INTO turns (battle, turn, prompt, text_a, text_b, state_a, state_b, error_a, error_b, stats_a, stats_b)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (battle, turn) DO UPDATE SET"
        " text_a = excluded.text_a, text_b = excluded.text_b, state_a = excluded.state_a, state_b = excluded.state_b,"
        " error_a = excluded.error_a, error_b = excluded.error_b, stats_a = excluded.stats_a,"
        " stats_b = excluded.stats_b",
        (
            battle, number, turn.prompt, turn.a.text, turn.b.text, turn.a.state, turn.b.state, turn.a.error,
            turn.b.error, _json(turn.a.stats), _json(turn.b.stats),
        ),
    )  # fmt: skip


def get_battle(db: sqlite3.Connection, battle: str) -> StoredBattle | None:
    row = db.execute(f"SELECT {_BATTLE_FIELDS} FROM battles WHERE id = ?", (battle,)).fetchone()
    return None if row is None else _battle(row)


def get_turns(db: sqlite3.Connection, battle: str) -> list[StoredTurn]:
    """In order. An answer that was being written when the daemon ended is one that was stopped."""
    rows = db.execute(
        "SELECT prompt, text_a, state_a, error_a, stats_a, text_b, state_b, error_b, stats_b FROM turns"
        " WHERE battle = ? ORDER BY turn",
        (battle,),
    )
    return [StoredTurn(row[0], _answer(*row[1:5]), _answer(*row[5:9])) for row in rows]


def get_vote(db: sqlite3.Connection, battle: str) -> StoredVote | None:
    row = db.execute("SELECT battle, at, final_at, outcome, flags FROM votes WHERE battle = ?", (battle,)).fetchone()
    return None if row is None else StoredVote(row[0], row[1], row[2], row[3], row[4].split())


def list_battles(db: sqlite3.Connection, owner: str | None, limit: int) -> list[tuple[StoredBattle, StoredVote | None]]:
    """Newest first; `owner` None lists everybody's. Judged and imported ones are left out: nobody goes on with them."""
    rows = db.execute(
        f"SELECT {_BATTLE_FIELDS} FROM battles WHERE source = 'person' AND (? IS NULL OR owner = ?)"
        " ORDER BY created_at DESC LIMIT ?",
        (owner, owner, limit),
    ).fetchall()
    return [(_battle(row), get_vote(db, row[0])) for row in rows]


def add_vote(
    db: sqlite3.Connection,
    battle: StoredBattle,
    turns: list[StoredTurn],
    vote: StoredVote,
    *,
    language: str,
    question: str = "",
) -> None:
    """The vote, once. The caller has written the turns in the same transaction.

    Raises:
        ApiError: 409, it has one already.
    """
    if (known := get_vote(db, battle.id)) is not None:
        raise ApiError(409, f"This battle has its vote already: '{known.outcome}'.", code="already_voted")
    a, b = side_counts([turn.a for turn in turns]), side_counts([turn.b for turn in turns])
    db.execute(
        "INSERT INTO votes (battle, at, final_at, outcome, model_a, model_b, source, mode, voter, judge, tag, language,"
        " flags, turns, tokens_a, headers_a, lists_a, bold_a, tokens_b, headers_b, lists_b, bold_b, question)"
        f" VALUES ({', '.join('?' * 23)})",
        (
            battle.id, vote.at, vote.final_at, vote.outcome, battle.model_a, battle.model_b, battle.source,
            battle.mode, battle.voter, battle.judge, battle.tag, language, " ".join(vote.flags), len(turns), *a, *b,
            question,
        ),
    )  # fmt: skip


def undo_vote(db: sqlite3.Connection, battle: str, now: float) -> StoredVote:
    """Take a vote back while it is not final.

    Raises:
        ApiError: 409, there is none, or it is final.
    """
    vote = get_vote(db, battle)
    if vote is None:
        raise ApiError(409, "There is no vote to take back.", code="not_voted")
    if vote.is_final(now):
        raise ApiError(409, "The vote is final: its time is over, or the names were shown.", code="vote_is_final")
    db.execute("DELETE FROM votes WHERE battle = ?", (battle,))
    return vote


def finalize_vote(db: sqlite3.Connection, battle: str, now: float) -> StoredVote:
    """Make a vote final.

    Raises:
        ApiError: 409, there is none.
    """
    db.execute("UPDATE votes SET final_at = min(final_at, ?) WHERE battle = ?", (now, battle))
    vote = get_vote(db, battle)
    if vote is None:
        raise ApiError(409, "Vote first: the names are shown after the vote.", code="not_voted")
    return vote


def votes_since(db: sqlite3.Connection, voter: str, since: float) -> int:
    count: int = db.execute("SELECT count(*) FROM votes WHERE voter = ? AND at >= ?", (voter, since)).fetchone()[0]
    return count


def question_key(prompts: Sequence[str]) -> str:
    """The same for the same prompts, however they are spaced: by it, people's and judges' votes are compared."""
    text = "\n".join(" ".join(prompt.split()) for prompt in prompts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def has_origin(db: sqlite3.Connection, origin: str) -> bool:
    return db.execute("SELECT 1 FROM battles WHERE origin = ?", (origin,)).fetchone() is not None


def has_same_vote(db: sqlite3.Connection, battle: StoredBattle, turns: list[StoredTurn], vote: StoredVote) -> bool:
    """Whether this very vote is known in another form: same models, prompts and outcome at the same moment.

    FastChat's logs round times to a tenth of a millisecond.
    """
    if not vote.at or not turns:
        return False
    question = question_key([turn.prompt for turn in turns])
    found = db.execute(
        "SELECT 1 FROM votes WHERE question = ? AND question <> '' AND model_a = ? AND model_b = ? AND outcome = ?"
        " AND abs(at - ?) < 0.001",
        (question, battle.model_a, battle.model_b, vote.outcome, vote.at),
    )
    return found.fetchone() is not None


def side_counts(answers: list[StoredAnswer]) -> tuple[int, int, int, int]:
    """Tokens, headers, list items and bold spans of one side's answers."""
    counts = [markdown_counts(answer.text) for answer in answers]
    headers, lists, bold = (sum(each) for each in zip(*counts, strict=True)) if counts else (0, 0, 0)
    return sum(tokens_of(answer) for answer in answers), headers, lists, bold


def tokens_of(answer: StoredAnswer) -> int:
    """As the worker counted them, else about a token per four characters."""
    return answer.stats.completion_tokens or (len(answer.text) + 3) // 4


def _battle(row: Any) -> StoredBattle:
    fields = list(row)
    fields[7] = msgspec.json.decode(row[7])
    fields[8] = msgspec.json.decode(row[8], type=Sampling)
    fields[13] = msgspec.json.decode(row[13])
    return StoredBattle(*fields)


def _answer(text: str, state: AnswerState, error: str, stats: str) -> StoredAnswer:
    ended: AnswerState = "stopped" if state in ("waiting", "writing") else state
    return StoredAnswer(text, ended, error, msgspec.json.decode(stats, type=AnswerStats))


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
