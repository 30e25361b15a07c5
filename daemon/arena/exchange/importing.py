"""Votes in from files, each once, in whatever form it comes again; and verdicts of judges."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

import msgspec

from daemon.arena import records
from daemon.arena.exchange.battle import Battle, Refused, digest
from daemon.arena.exchange.parsing import read_record, turns_of
from daemon.arena.language import language_of
from daemon.arena.records import StoredBattle, StoredVote
from daemon.store.store import Store
from fcd.errors import ApiError, invalid
from fcd.wire.arena import ImportFormat, ImportReport, JudgedPair

_BATCH = 500


async def import_data(store: Store, data: str, form: ImportFormat, now: float) -> ImportReport:
    """Take in a file. Records that were taken in before are recognised by what they say.

    Raises:
        ApiError: 400, it is none of the formats.
    """
    report = ImportReport(0, 0, 0)
    batch: list[Battle] = []
    for record in _records(data, form):
        try:
            batch.append(read_record(record, form, now))
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
        turns = turns_of(pair.conversation_a, pair.conversation_b)
    except (Refused, KeyError, TypeError) as error:
        raise invalid("conversation_a", f"The two conversations cannot be used: {error}.") from None
    detail = {"verdicts": list(pair.verdicts), "reference": pair.reference, "question": pair.question}
    stored = StoredBattle(
        records.new_id(), now, "blind", "judge", pair.model_a, pair.model_b, owner="judge",
        voter=f"judge:{pair.judge}", judge=pair.judge, detail=detail,
    )  # fmt: skip
    texts = [(turn.prompt, turn.a.text, turn.b.text) for turn in turns]
    stored.origin = digest("judge", pair.judge, pair.model_a, pair.model_b, texts)
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
