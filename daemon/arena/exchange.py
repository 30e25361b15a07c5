"""Votes in and out of files: FastChat's logs and cleaned battles, preference pairs, fine-tuning data, CSV, JSON."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from daemon.arena import records
from daemon.arena.board import reading, where_of
from daemon.arena.flags import flags_of
from daemon.arena.language import code_of, language_of
from daemon.arena.records import StoredAnswer, StoredBattle, StoredTurn, StoredVote
from daemon.store.store import Store
from fcd.errors import ApiError, invalid
from fcd.wire.arena import AnswerStats, ImportFormat, ImportReport, JudgedPair, LeaderboardQuery, Outcome

_PIECE_BYTES = 64 * 1024
_BATCH = 500
_MOST_TURNS = 1000

_VOTE_TYPES: dict[str, Outcome] = {
    "leftvote": "a", "rightvote": "b", "tievote": "tie", "bothbad_vote": "both_bad",
}  # fmt: skip
_WINNERS: dict[str, Outcome] = {
    "model_a": "a", "model_b": "b", "tie": "tie", "tie (bothbad)": "both_bad", "both_bad": "both_bad",
}  # fmt: skip
_TYPE_OF = {outcome: kind for kind, outcome in _VOTE_TYPES.items()}
_WINNER_OF: dict[str, str] = {"a": "model_a", "b": "model_b", "tie": "tie", "both_bad": "tie (bothbad)"}
_OWN_FORMAT = "fcd-arena-1"
_HEADING = re.compile(r"^(?:###\s*Model [AB]:\s*|<h3>.*?:\s*)(.*?)(?:</h3>)?\s*$", re.DOTALL)

_MARKERS = ("▌", '<span class="cursor">')
_ERRORS = ("network error due to high traffic", "api request error", "$moderation$")


class Battle(msgspec.Struct):
    """A battle with its vote, as it goes in and out."""

    stored: StoredBattle
    turns: list[StoredTurn]
    vote: StoredVote
    language: str = ""


class Refused(Exception):
    """A record that is not taken in; the argument says why, in a word."""


# Out


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
                "ip": _voter_mark(stored.voter),
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
        "judge": f"arena_user_{_voter_mark(stored.voter)}",
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
        yield _line({"format": _OWN_FORMAT, **msgspec.to_builtins(battle)})


_WRITERS: dict[str, Callable[[Iterator[Battle]], Iterator[str]]] = {
    "preferences": _preferences, "sft": _sft, "fastchat": _fastchat, "battles": _cleaned, "csv": _csv, "json": _json,
}  # fmt: skip


# In


async def import_data(store: Store, data: str, form: ImportFormat, now: float) -> ImportReport:
    """Take in a file. Records that were taken in before are recognised by what they say.

    Raises:
        ApiError: 400, it is none of the formats.
    """
    report = ImportReport(0, 0, 0)
    batch: list[Battle] = []
    for record in _records(data, form):
        try:
            batch.append(_read(record, form, now))
        except (Refused, msgspec.ValidationError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            reason = str(error) if isinstance(error, Refused) else "malformed"
            report.refused += 1
            report.reasons[reason] = report.reasons.get(reason, 0) + 1
        if len(batch) >= _BATCH:
            await _write(store, batch, report)
            batch = []
    await _write(store, batch, report)
    return report


async def _write(store: Store, batch: list[Battle], report: ImportReport) -> None:
    def write(db: sqlite3.Connection) -> int:
        added = 0
        for battle in batch:
            stored = battle.stored
            if records.has_origin(db, stored.origin) or records.get_battle(db, stored.id) is not None:
                continue
            if records.has_same_vote(db, stored, battle.turns, battle.vote):
                continue
            add(db, battle)
            added += 1
        return added

    added = await store.run(write) if batch else 0
    report.added += added
    report.duplicates += len(batch) - added


def add(db: sqlite3.Connection, battle: Battle) -> None:
    """A battle with its turns and its vote."""
    records.add_battle(db, battle.stored)
    for number, turn in enumerate(battle.turns):
        records.put_turn(db, battle.stored.id, number, turn)
    prompts = [turn.prompt for turn in battle.turns]
    question = records.question_key(prompts) if prompts else ""
    language = battle.language or language_of(" ".join(prompts))
    records.add_vote(db, battle.stored, battle.turns, battle.vote, language=language, question=question)


def judged_battle(pair: JudgedPair, now: float) -> Battle:
    """A judge's verdict as a battle. Raises ApiError 400 for conversations that are not alike."""
    try:
        turns = _turns(pair.conversation_a, pair.conversation_b)
    except (Refused, KeyError, TypeError) as error:
        raise invalid("conversation_a", f"The two conversations cannot be used: {error}.") from None
    detail = {"verdicts": list(pair.verdicts), "reference": pair.reference, "question": pair.question}
    stored = StoredBattle(
        records.new_id(), now, "blind", "judge", pair.model_a, pair.model_b, owner="judge",
        voter=f"judge:{pair.judge}", judge=pair.judge, detail=detail,
    )  # fmt: skip
    texts = [(turn.prompt, turn.a.text, turn.b.text) for turn in turns]
    stored.origin = _digest("judge", pair.judge, pair.model_a, pair.model_b, texts)
    return Battle(stored, turns, StoredVote(stored.id, now, now, pair.outcome))


def _records(data: str, form: ImportFormat) -> Iterator[Any]:
    text = data.lstrip("\ufeff \r\n\t")
    if text.startswith("["):
        try:
            found = msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise ApiError(400, f"The file is not valid JSON: {error}", code="invalid_json", param="data") from None
        yield from found
        return
    for line in text.splitlines():
        if line.strip():
            try:
                yield msgspec.json.decode(line)
            except msgspec.DecodeError:
                yield None


def _read(record: Any, form: ImportFormat, now: float) -> Battle:
    if not isinstance(record, dict):
        raise Refused("not JSON")
    found = _form_of(record)
    if form not in ("auto", found):
        raise Refused(f"not {form}")
    if found == "json":
        return _from_own(record)
    return _from_log(record) if found == "fastchat" else _from_cleaned(record)


def _form_of(record: dict[str, Any]) -> str:
    if record.get("format") == _OWN_FORMAT:
        return "json"
    if "type" in record and "states" in record:
        return "fastchat"
    if "winner" in record and "model_a" in record:
        return "battles"
    raise Refused("no vote" if "type" in record else "unknown form")


def _from_own(record: dict[str, Any]) -> Battle:
    battle = msgspec.convert({name: value for name, value in record.items() if name != "format"}, Battle)
    stored = battle.stored
    if stored.source == "person":
        stored.source = "import"
    stored.owner = "import"
    stored.origin = stored.origin or f"fcd:{stored.id}"
    battle.vote.battle = stored.id
    return battle


def _from_log(record: dict[str, Any]) -> Battle:
    """One vote of a conv.json log, by FastChat's own rules of what counts (`clean_battle_data.py`)."""
    outcome = _VOTE_TYPES.get(record["type"])
    if outcome is None:
        raise Refused("no vote")
    public = [_public_name(name) for name in record["models"]]
    hidden = [state.get("model_name") or "" for state in record["states"]]
    if (public[0] == "") != (public[1] == ""):
        raise Refused("one name missing")
    blind = public[0] in ("", "Model A")
    models = hidden if blind else public
    if not blind and any(one and one not in other for one, other in zip(hidden, public, strict=True)):
        raise Refused("names do not match")
    conversations = [_from_state(state) for state in record["states"]]
    turns = _turns(*conversations)
    _check_texts(turns)
    return _imported(
        models, outcome, turns, blind=blind, at=float(record["tstamp"]), voter=str(record.get("ip") or ""),
        conv_ids=[str(state.get("conv_id") or "") for state in record["states"]],
    )  # fmt: skip


def _from_cleaned(record: dict[str, Any]) -> Battle:
    outcome = _WINNERS.get(record["winner"])
    if outcome is None:
        raise Refused("no vote")
    turns = _turns(record.get("conversation_a") or [], record.get("conversation_b") or [])
    battle = _imported(
        [record["model_a"], record["model_b"]], outcome, turns, blind=bool(record.get("anony", True)),
        at=float(record.get("tstamp") or 0.0), voter=str(record.get("judge") or ""),
        conv_ids=[str(record.get("question_id") or "")],
    )  # fmt: skip
    battle.language = code_of(record["language"]) if record.get("language") else ""
    return battle


def _imported(
    models: list[str], outcome: Outcome, turns: list[StoredTurn], *, blind: bool, at: float, voter: str,
    conv_ids: list[str],
) -> Battle:  # fmt: skip
    if not all(models) or models[0] == models[1] or not all(isinstance(model, str) for model in models):
        raise Refused("one name missing" if not all(models) else "the same model twice")
    mark = f"import:{_voter_mark(voter)}" if voter else "import"
    stored = StoredBattle(
        records.new_id(), at, "blind" if blind else "named", "import", models[0], models[1], owner="import",
        voter=mark, detail={"conv_ids": conv_ids},
    )  # fmt: skip
    texts = [(turn.prompt, turn.a.text, turn.b.text) for turn in turns]
    stored.origin = _digest("vote", int(at), models[0], models[1], outcome, texts)
    vote = StoredVote(stored.id, at, at, outcome)
    vote.flags = flags_of(stored, turns)
    return Battle(stored, turns, vote)


def _from_state(state: dict[str, Any]) -> list[dict[str, Any]]:
    messages = state["messages"][int(state.get("offset") or 0) :]
    if not messages:
        raise Refused("no messages")
    roles = ("user", "assistant")
    return [{"role": roles[index % 2], "content": _text(message[1])} for index, message in enumerate(messages)]


def _text(content: Any) -> Any:
    """An image turn is [text, [images]]; only its text can be kept."""
    return content[0] if isinstance(content, list) and content else content


def _turns(conversation_a: list[dict[str, Any]], conversation_b: list[dict[str, Any]]) -> list[StoredTurn]:
    """Pairs of question and answers. Both sides must have been asked the same number of questions."""
    a, b = _exchanges(conversation_a), _exchanges(conversation_b)
    if len(a) != len(b):
        raise Refused("sides of different lengths")
    if len(a) > _MOST_TURNS:
        raise Refused("too many turns")
    return [StoredTurn(one[0], one[1], other[1]) for one, other in zip(a, b, strict=True)]


def _exchanges(conversation: list[dict[str, Any]]) -> list[tuple[str, StoredAnswer]]:
    found: list[tuple[str, StoredAnswer]] = []
    question: str | None = None
    for message in conversation:
        text = _text(message["content"])
        if message["role"] == "user":
            question = text
        elif message["role"] == "assistant" and question is not None:
            if not isinstance(text, str) or not isinstance(question, str):
                raise Refused("text missing")
            stats = AnswerStats(completion_tokens=int(message.get("num_tokens") or 0))
            found.append((question, StoredAnswer(text, "done", "", stats)))
            question = None
    return found


def _check_texts(turns: list[StoredTurn]) -> None:
    if not turns:
        raise Refused("no messages")
    texts = " ".join(text.lower() for turn in turns for text in (turn.a.text, turn.b.text))
    if any(not text for turn in turns for text in (turn.a.text, turn.b.text)):
        raise Refused("text missing")
    if any(marker in texts for marker in _MARKERS):
        raise Refused("unfinished")
    if any(error in texts for error in _ERRORS):
        raise Refused("error text")


def _public_name(name: Any) -> str:
    if not isinstance(name, str):
        raise Refused("one name missing")
    found = _HEADING.match(name)
    return found[1].strip() if found else name.strip()


# Pieces


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


def _voter_mark(voter: str) -> str:
    """Tells voters apart without telling who they are: FastChat's logs hold addresses, which are not kept."""
    plain = voter.removeprefix("import:").removeprefix("arena_user_")
    if re.fullmatch(r"[0-9a-f]{16}", plain):
        return plain
    return hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _digest(*parts: Any) -> str:
    encoded = msgspec.json.encode([msgspec.to_builtins(part) for part in parts])
    return hashlib.sha256(encoded).hexdigest()


def _line(value: Any) -> str:
    return msgspec.json.encode(value).decode() + "\n"


def _csv_row(cells: list[str]) -> str:
    out = io.StringIO()
    csv.writer(out).writerow([_harmless(cell) for cell in cells])
    return out.getvalue()


def _harmless(cell: str) -> str:
    """Spreadsheets take some first characters for a formula."""
    return f"'{cell}" if cell[:1] in "=+-@\t\r" and cell else cell
