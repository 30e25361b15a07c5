"""`fcd arena judge`: answers to a file of prompts, compared by a model in both orders."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from fcd.cli.access import running_client
from fcd.cli.arena_query import names
from fcd.cli.output import note, print_json, table
from fcd.errors import EXIT_FAILED, EXIT_OK, FcdError, UsageError
from fcd.judge import JudgeItem, combine, conversation, judge_messages, read_item, read_verdict, turned
from fcd.wire.arena import JudgedPair, Outcome

if TYPE_CHECKING:
    from fcd.client import Client

_JUDGE_TOKENS = 1024


class Totals(msgspec.Struct):
    judged: int = 0
    known: int = 0
    """Judged before: the same answers by the same judge."""
    unreadable: int = 0
    """The judge gave no verdict in one of the orders."""
    failed: int = 0
    disagreed: int = 0
    """A winner in one order that was not the winner in the other: ties."""
    wins: dict[str, Counter[str]] = {}


async def judge(args: argparse.Namespace) -> int:
    items = list(_items(args.file))
    models = names(args.models)
    if len(models) == 1 or not (models or any(len(item.answers) >= 2 for item in items)):
        raise UsageError("fcd arena judge: two models or more have to answer.", hint="Name them: --models A,B.")
    totals = Totals()
    gate = asyncio.Semaphore(args.parallel)
    async with running_client() as client:
        run = _Run(client, args.judge, models, args.max_new_tokens, gate, totals)
        for done, finished in enumerate(asyncio.as_completed([run.item(item) for item in items]), 1):
            await finished
            if sys.stderr.isatty() or done == len(items):
                note(f"{done}/{len(items)} prompts, {totals.judged} comparisons")
        agreement = await client.agreement(args.judge)
    if args.json:
        print_json({"totals": msgspec.to_builtins(totals), "agreement": agreement})
    else:
        _print(totals)
        if agreement.compared:
            print(
                f"{args.judge} agrees with people in {agreement.rate:.0%} of {agreement.compared} votes"
                f" (95 %: {agreement.lower:.0%} to {agreement.upper:.0%})."
            )
    return EXIT_OK if totals.judged or totals.known else EXIT_FAILED


class _Run:
    def __init__(
        self, client: Client, judge: str, models: list[str], max_tokens: int, gate: asyncio.Semaphore, totals: Totals
    ) -> None:
        self._client = client
        self._judge = judge
        self._models = models
        self._max_tokens = max_tokens
        self._gate = gate
        self._totals = totals

    async def item(self, item: JudgeItem) -> None:
        """Everything about one line of the file; what fails is counted and said."""
        wanted = self._models or list(item.answers)
        try:
            answers = {model: item.answers.get(model) or await self._answer(model, item.prompts) for model in wanted}
            for one, other in combinations(wanted, 2):
                await self._compare(item, one, other, answers)
        except FcdError as error:
            self._totals.failed += 1
            note(f"'{item.prompts[0][:40]}': {error.message}")

    async def _compare(self, item: JudgeItem, one: str, other: str, answers: dict[str, list[str]]) -> None:
        first = await self._verdict(item, answers[one], answers[other])
        second = await self._verdict(item, answers[other], answers[one])
        if first is None or second is None:
            self._totals.unreadable += 1
            return
        verdicts = [first, turned(second)]
        outcome = combine(*verdicts)
        report = await self._client.judge_vote(
            JudgedPair(
                one, other, conversation(item.prompts, answers[one]), conversation(item.prompts, answers[other]),
                outcome, self._judge, verdicts, item.prompts[0][:200], item.reference,
            )
        )  # fmt: skip
        self._totals.judged += report.added
        self._totals.known += report.duplicates
        self._totals.disagreed += verdicts[0] != verdicts[1]
        for model, won in ((one, outcome == "a"), (other, outcome == "b")):
            result = "won" if won else ("tied" if outcome == "tie" else "lost")
            self._totals.wins.setdefault(model, Counter())[result] += 1

    async def _verdict(self, item: JudgeItem, first: list[str], second: list[str]) -> Outcome | None:
        messages = judge_messages(item.prompts, first, second, item.reference)
        return read_verdict(await self._ask(self._judge, messages, _JUDGE_TOKENS))

    async def _answer(self, model: str, prompts: list[str]) -> list[str]:
        messages: list[dict[str, str]] = []
        answers: list[str] = []
        for prompt in prompts:
            messages.append({"role": "user", "content": prompt})
            answers.append(await self._ask(model, messages, self._max_tokens))
            messages.append({"role": "assistant", "content": answers[-1]})
        return answers

    async def _ask(self, model: str, messages: list[dict[str, str]], max_tokens: int) -> str:
        body: dict[str, Any] = {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0.0}
        parts: list[str] = []
        async with self._gate, aclosing(self._client.chat(body)) as chunks:
            async for chunk in chunks:
                parts += [(choice.get("delta") or {}).get("content") or "" for choice in chunk.get("choices") or []]
        return "".join(parts).strip()


def _items(name: str) -> Iterator[JudgeItem]:
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FcdError(f"{name} cannot be read: {error}") from None
    found = [read_item(line, number) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not found:
        raise FcdError(f"{name} holds no prompts.")
    yield from found


def _print(totals: Totals) -> None:
    rows = [
        (model, str(counts["won"]), str(counts["tied"]), str(counts["lost"]))
        for model, counts in sorted(totals.wins.items(), key=lambda item: -item[1]["won"])
    ]
    if rows:
        print(table(("MODEL", "WON", "TIED", "LOST"), rows))
    words = [f"{totals.judged} comparisons kept"]
    words += [f"{totals.known} known already"] if totals.known else []
    words += [f"{totals.disagreed} ties because the orders disagreed"] if totals.disagreed else []
    words += [f"{totals.unreadable} without a verdict"] if totals.unreadable else []
    words += [f"{totals.failed} prompts failed"] if totals.failed else []
    print(", ".join(words) + ".")
