"""Files in and out: FastChat's logs and cleaned battles, preference pairs, and back again without doubles."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from daemon.arena.exchange import export_lines, import_data
from daemon.store.store import Store
from fcd.errors import ApiError
from fcd.ratings.bradley_terry import fit
from fcd.wire.arena import ImportFormat, ImportReport, LeaderboardQuery
from tests.daemon.arena.harness import Script, arena_daemon

EVERYTHING = LeaderboardQuery(named=True, flagged=True, source="all")
NOW = 2_000_000_000.0
GOLDEN = "AB left, AB left, BA left, AC left, CA tie, BC right, CB right, BC bothbad_, AC left, CB left"


def state(model: str, answer: str | None, *, prompt: str = "Hi?", offset: int = 0) -> dict[str, Any]:
    few_shot = [["user", "example"], ["assistant", "shown before"]][:offset]
    return {
        "template_name": "raw", "system_message": "", "roles": ["user", "assistant"],
        "messages": [*few_shot, ["user", prompt], ["assistant", answer]], "offset": offset,
        "conv_id": f"{abs(hash((model, answer))):032x}", "model_name": model,
    }  # fmt: skip


def log_line(kind: str, a: dict[str, Any], b: dict[str, Any], at: float, models: tuple[str, str] = ("", "")) -> str:
    return json.dumps({"tstamp": at, "type": kind, "models": models, "states": [a, b], "ip": "10.0.0.7"})


def golden_log() -> str:
    """The golden battles as FastChat's arena would have logged them, with what it also writes in between."""
    lines = []
    for number, battle in enumerate(GOLDEN.split(", ")):
        pair, kind = battle.split()
        a, b = (state(name, f"answer {number} of {name}", offset=2 * (number % 2)) for name in pair)
        lines.append(json.dumps({"tstamp": number, "type": "chat", "model": pair[0], "state": a, "ip": "10.0.0.7"}))
        lines.append(log_line(f"{kind}vote".replace("__", "_"), a, b, 1000.0 + number))
    return "\n".join(lines)


def taken_in(store: Store, data: str, form: ImportFormat = "auto") -> ImportReport:
    return asyncio.run(import_data(store, data, form, NOW))


def written(store_path: Path, form: str, query: LeaderboardQuery = EVERYTHING) -> str:
    return b"".join(export_lines(store_path, form, query, NOW)).decode()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "fcd.db"


def test_fastchats_log_gives_fastchats_ratings(database: Path) -> None:
    store = Store.open(database)
    report = taken_in(store, golden_log())
    assert (report.added, report.refused, report.reasons) == (10, 10, {"no vote": 10})
    from daemon.arena.board import read_votes, reading

    with reading(database) as db:
        votes = read_votes(db, LeaderboardQuery(), NOW)
    found = dict(zip(votes.models, fit(votes.counts, prior=0.0).ratings, strict=True))
    assert found == pytest.approx({"A": 1127.51, "B": 919.25, "C": 953.24}, abs=0.01)
    asyncio.run(store.close())


@pytest.mark.parametrize("form", ["fastchat", "battles", "json"])
def test_what_is_exported_can_be_taken_in_and_only_once(database: Path, tmp_path: Path, form: str) -> None:
    store = Store.open(database)
    taken_in(store, golden_log())
    text = written(database, form)
    again = taken_in(store, text)
    assert (again.added, again.duplicates, again.refused) == (0, 10, 0)
    asyncio.run(store.close())
    other = tmp_path / "other.db"
    elsewhere = Store.open(other)
    assert taken_in(elsewhere, text).added == 10
    assert taken_in(elsewhere, golden_log()).added == 0
    same = [json.loads(line) for line in written(other, "sft").splitlines()]
    first = [json.loads(line) for line in written(database, "sft").splitlines()]
    assert [each["messages"] for each in same] == [each["messages"] for each in first]
    asyncio.run(elsewhere.close())


def test_what_fastchats_cleaner_drops_is_refused_with_its_reason(database: Path) -> None:
    store = Store.open(database)
    good_a, good_b = state("A", "yes"), state("B", "no")
    lines = [
        log_line("leftvote", good_a, good_b, 1.0, ("A", "")),
        log_line("leftvote", good_a, good_b, 2.0, ("C", "D")),
        log_line("leftvote", state("A", None), good_b, 3.0),
        log_line("leftvote", state("A", "half▌"), good_b, 4.0),
        log_line("leftvote", state("A", "**API REQUEST ERROR** Reason: x"), good_b, 5.0),
        log_line("leftvote", good_a, state("A", "no"), 6.0),
        "{broken",
        json.dumps([1]),
        json.dumps({"hello": 1}),
        log_line("leftvote", good_a, good_b, 7.0, ("### Model A: A", "### Model B: B")),
    ]
    report = taken_in(store, "\n".join(lines))
    assert report.added == 1
    assert report.refused == 9
    reasons = "one name missing,names do not match,text missing,unfinished,error text,the same model twice,not JSON"
    assert {*reasons.split(","), "unknown form"} <= set(report.reasons)
    record = json.loads(written(database, "json"))
    assert record["stored"]["mode"] == "named"
    asyncio.run(store.close())


def test_addresses_of_voters_are_not_kept(database: Path) -> None:
    store = Store.open(database)
    taken_in(store, golden_log())
    for form in ("json", "fastchat", "battles", "csv", "preferences", "sft"):
        assert "10.0.0.7" not in written(database, form)
    asyncio.run(store.close())
    assert b"10.0.0.7" not in database.read_bytes()


def test_an_answer_that_names_its_model_is_flagged_and_a_prompt_is_not(database: Path) -> None:
    store = Store.open(database)
    lines = [
        log_line("leftvote", state("qwen2-7b", "I am Qwen."), state("B", "no"), 1.0),
        log_line("leftvote", state("qwen2-7b", "Yes.", prompt="Is qwen a google model?"), state("B", "no"), 2.0),
    ]
    taken_in(store, "\n".join(lines))
    flags = [json.loads(line)["vote"]["flags"] for line in written(database, "json").splitlines()]
    assert flags == [["identity"], []]
    asyncio.run(store.close())


def test_preferences_are_pairs_with_their_provenance(database: Path) -> None:
    store = Store.open(database)
    a = {"messages": [["user", "1?"], ["assistant", "same"], ["user", "2?"], ["assistant", "good"]]}
    b = {"messages": [["user", "1?"], ["assistant", "same"], ["user", "2?"], ["assistant", "bad"]]}
    apart = {"messages": [["user", "1?"], ["assistant", "other"], ["user", "2?"], ["assistant", "bad"]]}
    lines = [
        log_line("leftvote", {**state("A", ""), **a}, {**state("B", ""), **b}, 1.0),
        log_line("leftvote", {**state("A", ""), **a}, {**state("B", ""), **apart}, 2.0),
        log_line("tievote", {**state("A", ""), **a}, {**state("B", ""), **b}, 3.0),
    ]
    assert taken_in(store, "\n".join(lines)).added == 3
    (pair,) = [json.loads(line) for line in written(database, "preferences").splitlines()]
    assert [message["content"] for message in pair["prompt"]] == ["1?", "same", "2?"]
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == ("good", "bad")
    assert {"battle", "at", "model_a", "model_b", "voter", "source", "outcome", "origin"} <= set(pair["provenance"])
    assert len(written(database, "sft").splitlines()) == 2
    asyncio.run(store.close())


def test_csv_holds_no_formulas(database: Path) -> None:
    store = Store.open(database)
    taken_in(store, log_line("leftvote", state("=HYPERLINK(1)", "x"), state("B", "y"), 1.0))
    (row,) = list(csv.DictReader(io.StringIO(written(database, "csv"))))
    assert row["model_a"] == "'=HYPERLINK(1)"
    asyncio.run(store.close())


def test_filters_choose_what_is_exported(database: Path) -> None:
    store = Store.open(database)
    taken_in(store, golden_log())
    assert len(written(database, "fastchat", LeaderboardQuery(models=["A", "B"])).splitlines()) == 3
    assert len(written(database, "fastchat", LeaderboardQuery(since=1005.0)).splitlines()) == 5
    assert written(database, "fastchat", LeaderboardQuery(source="judge")) == ""
    asyncio.run(store.close())


def test_a_judges_votes_are_kept_apart_and_compared_with_peoples() -> None:
    from fcd.wire.arena import BattleRequest, JudgedPair
    from tests.daemon.arena.harness import to_end
    from tests.daemon.harness import run

    def said(answer: str) -> list[dict[str, Any]]:
        return [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": answer}]

    async def main() -> None:
        async with arena_daemon({"red": Script("one"), "blue": Script("two")}) as fcd:
            for outcome in ("a", "b"):
                info = await fcd.client.create_battle(BattleRequest(prompt="Hi?"))
                await to_end(fcd.client, info.id)
                await fcd.client.vote(info.id, outcome, reveal=True)  # type: ignore[arg-type]
            pair = JudgedPair("red", "blue", said("one"), said("two"), "a", "solomon", ["a", "a"])
            assert (await fcd.client.judge_vote(pair)).added == 1
            assert (await fcd.client.judge_vote(pair)).duplicates == 1
            assert (await fcd.client.leaderboard()).votes == 2
            judged = await fcd.client.leaderboard(LeaderboardQuery(source="judge"))
            assert [(row.model, row.wins) for row in judged.rows] == [("red", 1), ("blue", 0)]
            people = await fcd.client.votes()
            red = sum((vote.model_a if vote.outcome == "a" else vote.model_b) == "red" for vote in people.votes)
            found = await fcd.client.agreement("solomon")
            assert (found.compared, found.agreed) == (2, red)
            assert found.lower <= found.rate <= found.upper
            with pytest.raises(ApiError):
                await fcd.client.judge_vote(JudgedPair("red", "blue", said("one"), [], "a", "solomon"))

    run(main())
