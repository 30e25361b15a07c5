"""Records of files as battles: FastChat's logs and cleaned battles by its own rules of what counts, and our own."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from daemon.arena import records
from daemon.arena.exchange.battle import OWN_FORMAT, VOTE_TYPES, WINNERS, Battle, Refused, digest, voter_mark
from daemon.arena.flags import flags_of
from daemon.arena.language import code_of
from daemon.arena.records import StoredAnswer, StoredBattle, StoredTurn, StoredVote
from fcd.wire.arena import AnswerStats, ImportFormat, Outcome

_MOST_TURNS = 1000
_HEADING = re.compile(r"^(?:###\s*Model [AB]:\s*|<h3>.*?:\s*)(.*?)(?:</h3>)?\s*$", re.DOTALL)
_MARKERS = ("▌", '<span class="cursor">')
_ERRORS = ("network error due to high traffic", "api request error", "$moderation$")


def read_record(record: Any, form: ImportFormat, now: float) -> Battle:
    if not isinstance(record, dict):
        raise Refused("not JSON")
    found = _form_of(record)
    if form not in ("auto", found):
        raise Refused(f"not {form}")
    if found == "json":
        return _from_own(record)
    return _from_log(record) if found == "fastchat" else _from_cleaned(record)


def _form_of(record: dict[str, Any]) -> str:
    if record.get("format") == OWN_FORMAT:
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
    outcome = VOTE_TYPES.get(record["type"])
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
    turns = turns_of(*conversations)
    _check_texts(turns)
    return _imported(
        models, outcome, turns, blind=blind, at=float(record["tstamp"]), voter=str(record.get("ip") or ""),
        conv_ids=[str(state.get("conv_id") or "") for state in record["states"]],
    )  # fmt: skip


def _from_cleaned(record: dict[str, Any]) -> Battle:
    outcome = WINNERS.get(record["winner"])
    if outcome is None:
        raise Refused("no vote")
    turns = turns_of(record.get("conversation_a") or [], record.get("conversation_b") or [])
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
    mark = f"import:{voter_mark(voter)}" if voter else "import"
    stored = StoredBattle(
        records.new_id(), at, "blind" if blind else "named", "import", models[0], models[1], owner="import",
        voter=mark, detail={"conv_ids": conv_ids},
    )  # fmt: skip
    texts = [(turn.prompt, turn.a.text, turn.b.text) for turn in turns]
    stored.origin = digest("vote", int(at), models[0], models[1], outcome, texts)
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


def turns_of(conversation_a: list[dict[str, Any]], conversation_b: list[dict[str, Any]]) -> list[StoredTurn]:
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
