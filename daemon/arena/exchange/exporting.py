"""Votes out into files: preference pairs, fine-tuning data, FastChat's forms, CSV, JSON."""

from __future__ import annotations

import csv
import hashlib
import io
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from daemon.arena import records
from daemon.arena.board import reading, where_of
from daemon.arena.exchange.battle import OWN_FORMAT, VOTE_TYPES, Battle, voter_mark
from daemon.arena.records import StoredAnswer, StoredBattle, StoredTurn
from fcd.wire.arena import LeaderboardQuery

_PIECE_BYTES = 64 * 1024

_TYPE_OF = {outcome: kind for kind, outcome in VOTE_TYPES.items()}
_WINNER_OF: dict[str, str] = {"a": "model_a", "b": "model_b", "tie": "tie", "both_bad": "tie (bothbad)"}


def export_lines(database: Path, form: str, query: LeaderboardQuery, now: float) -> Iterator[bytes]:
    """A file's bytes, in pieces. Blocking: run it in a thread."""
    write = _WRITERS[form]
    gathered = bytearray()
    with reading(database) as db:
        for line in write(_battles(db, query, now)):
            gathered += line.encode("utf-8", "surrogatepass")
            if len(gathered) >= _PIECE_BYTES:
                yield bytes(gathered)
                gathered.clear()
    if gathered:
        yield bytes(gathered)


def _battles(db: sqlite3.Connection, query: LeaderboardQuery, now: float) -> Iterator[Battle]:
    where, values = where_of(query, now)
    rows = db.execute(
        f"SELECT battle, language FROM votes WHERE outcome <> 'skip' AND {where} ORDER BY at, battle", values
    )
    for battle, language in rows:
        stored, vote = records.get_battle(db, battle), records.get_vote(db, battle)
        if stored is not None and vote is not None:
            yield Battle(stored, records.get_turns(db, battle), vote, language)


def _preferences(battles: Iterator[Battle]) -> Iterator[str]:
    """One line per decisive vote: TRL's `prompt`, `chosen` and `rejected` as messages, for DPO.

    The vote is about whole conversations; those of several turns differ before the last question, so only the last
    answers of one-turn battles, and those whose earlier answers are the same, become pairs.
    """
    for battle in battles:
        if battle.vote.outcome not in ("a", "b") or not battle.turns:
            continue
        *earlier, last = battle.turns
        if any(turn.a.text != turn.b.text for turn in earlier) or not (last.a.text and last.b.text):
            continue
        if last.a.text == last.b.text:
            continue
        chosen, rejected = (last.a, last.b) if battle.vote.outcome == "a" else (last.b, last.a)
        yield _line(
            {
                "prompt": [*_opening(battle.stored), *_messages(earlier, "a"), _said("user", last.prompt)],
                "chosen": [_said("assistant", chosen.text)],
                "rejected": [_said("assistant", rejected.text)],
                **_provenance(battle),
            }
        )


def _sft(battles: Iterator[Battle]) -> Iterator[str]:
    """One line per decisive vote: the conversation that was preferred."""
    for battle in battles:
        side = battle.vote.outcome
        if side in ("a", "b") and battle.turns and all(getattr(turn, side).text for turn in battle.turns):
            model = battle.stored.model_a if side == "a" else battle.stored.model_b
            messages = [*_opening(battle.stored), *_messages(battle.turns, side)]
            yield _line({"messages": messages, "model": model, **_provenance(battle)})


def _fastchat(battles: Iterator[Battle]) -> Iterator[str]:
    """FastChat's conv.json: one vote per line, as its arena logs them."""
    for battle in battles:
        stored, blind = battle.stored, battle.stored.mode == "blind"
        yield _line(
            {
                "tstamp": round(battle.vote.at, 4),
                "type": _TYPE_OF[battle.vote.outcome],
                "models": ["", ""] if blind else [stored.model_a, stored.model_b],
                "states": [_state(battle, "a"), _state(battle, "b")],
                "ip": voter_mark(stored.voter),
            }
        )


def _cleaned(battles: Iterator[Battle]) -> Iterator[str]:
    """FastChat's cleaned battles, which its leaderboard reads: one JSON array."""
    yield "["
    separator = "\n"
    for battle in battles:
        yield separator + msgspec.json.encode(_clean_record(battle)).decode()
        separator = ",\n"
    yield "\n]\n"


def _clean_record(battle: Battle) -> dict[str, Any]:
    stored = battle.stored
    return {
        "question_id": _conv_id(battle, "a"),
        "model_a": stored.model_a,
        "model_b": stored.model_b,
        "winner": _WINNER_OF[battle.vote.outcome],
        "judge": f"arena_user_{voter_mark(stored.voter)}",
        "conversation_a": _conversation(battle.turns, "a"),
        "conversation_b": _conversation(battle.turns, "b"),
        "turn": len(battle.turns),
        "anony": stored.mode == "blind",
        "language": battle.language,
        "tstamp": battle.vote.at,
        "conv_metadata": _metadata(battle.turns),
    }


def _csv(battles: Iterator[Battle]) -> Iterator[str]:
    head = [
        "battle",
        "time",
        "model_a",
        "model_b",
        "outcome",
        "voter",
        "source",
        "mode",
        "turns",
        "language",
        "tag",
        "flags",
    ]
    yield _csv_row(head)
    for battle in battles:
        stored, vote = battle.stored, battle.vote
        yield _csv_row(
            [stored.id, f"{vote.at:.3f}", stored.model_a, stored.model_b, vote.outcome, stored.voter, stored.source,
             stored.mode, str(len(battle.turns)), battle.language, stored.tag, " ".join(vote.flags)]
        )  # fmt: skip


def _json(battles: Iterator[Battle]) -> Iterator[str]:
    """Everything, to be taken in by another fcd: one battle per line."""
    for battle in battles:
        yield _line({"format": OWN_FORMAT, **msgspec.to_builtins(battle)})


_WRITERS: dict[str, Callable[[Iterator[Battle]], Iterator[str]]] = {
    "preferences": _preferences, "sft": _sft, "fastchat": _fastchat, "battles": _cleaned, "csv": _csv, "json": _json,
}  # fmt: skip


def _opening(stored: StoredBattle) -> list[dict[str, Any]]:
    return [*([_said("system", stored.system)] if stored.system else []), *stored.history]


def _messages(turns: list[StoredTurn], side: str) -> list[dict[str, Any]]:
    return [
        message
        for turn in turns
        for message in (_said("user", turn.prompt), _said("assistant", getattr(turn, side).text))
    ]


def _said(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def _provenance(battle: Battle) -> dict[str, Any]:
    stored, vote = battle.stored, battle.vote
    return {
        "provenance": {
            "battle": stored.id, "at": vote.at, "outcome": vote.outcome, "model_a": stored.model_a,
            "model_b": stored.model_b, "voter": stored.voter, "source": stored.source, "mode": stored.mode,
            "judge": stored.judge, "flags": vote.flags, "language": battle.language,
            "sampling": msgspec.to_builtins(stored.sampling), "origin": stored.origin,
        }
    }  # fmt: skip


def _state(battle: Battle, side: str) -> dict[str, Any]:
    messages = [
        ["user" if index % 2 == 0 else "assistant", text] for index, text in enumerate(_flat(battle.turns, side))
    ]
    return {
        "template_name": "raw",
        "system_message": battle.stored.system,
        "roles": ["user", "assistant"],
        "messages": messages,
        "offset": 0,
        "conv_id": _conv_id(battle, side),
        "model_name": battle.stored.model_a if side == "a" else battle.stored.model_b,
    }


def _flat(turns: list[StoredTurn], side: str) -> list[str]:
    return [text for turn in turns for text in (turn.prompt, getattr(turn, side).text)]


def _conversation(turns: list[StoredTurn], side: str) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for turn in turns:
        answer: StoredAnswer = getattr(turn, side)
        made.append({"role": "user", "content": turn.prompt, "num_tokens": (len(turn.prompt) + 3) // 4})
        made.append({"role": "assistant", "content": answer.text, "num_tokens": records.tokens_of(answer)})
    return made


def _metadata(turns: list[StoredTurn]) -> dict[str, Any]:
    """What FastChat's style control reads."""
    made: dict[str, Any] = {}
    for side in ("a", "b"):
        tokens, headers, lists, bold = records.side_counts([getattr(turn, side) for turn in turns])
        made[f"sum_assistant_{side}_tokens"] = tokens
        made[f"header_count_{side}"] = headers
        made[f"list_count_{side}"] = lists
        made[f"bold_count_{side}"] = bold
    return made


def _conv_id(battle: Battle, side: str) -> str:
    """Of the log that it came from, where it came from one; else a number of its own for each side."""
    known = battle.stored.detail.get("conv_ids") or []
    index = 0 if side == "a" else 1
    if index < len(known) and known[index]:
        return str(known[index])
    return hashlib.sha256(f"{battle.stored.id}/{side}".encode()).hexdigest()[:32]


def _line(value: Any) -> str:
    return msgspec.json.encode(value).decode() + "\n"


def _csv_row(cells: list[str]) -> str:
    out = io.StringIO()
    csv.writer(out).writerow([_harmless(cell) for cell in cells])
    return out.getvalue()


def _harmless(cell: str) -> str:
    """Spreadsheets take some first characters for a formula."""
    return f"'{cell}" if cell[:1] in "=+-@\t\r" and cell else cell
