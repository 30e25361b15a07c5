"""A model as judge of two answers: what it is asked, how its verdict is read, what two verdicts make.

The protocol is that of L. Zheng et al., Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena, 2023: both orders, and
a winner only where both agree. Pure: nothing is asked here.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from fcd.errors import FcdError
from fcd.wire.arena import Outcome

_VERDICT = re.compile(r"\[\[\s*([ABC])\s*\]\]")
_LOOSE = re.compile(r"(?i:verdict|winner|better)\W+(?i:is\W+)?(?i:assistant\W+)?([ABC])\b")

INSTRUCTIONS = (
    "You compare two assistants' answers to the same request. Judge which one serves the person better: is it right,"
    " does it answer what was asked, is it complete and clear? Do not prefer an answer for its length, for the order in"
    " which the two are shown, or for its style alone. Give your reasons in a few sentences, then end with your verdict"
    " in exactly this form: [[A]] if assistant A is better, [[B]] if assistant B is better, [[C]] if they are equal."
)


class JudgeItem(msgspec.Struct):
    """One line of a prompt file: prompts, perhaps a reference answer, perhaps answers that exist already."""

    prompts: list[str]
    reference: str = ""
    answers: dict[str, list[str]] = {}
    """Model to its answers, one per prompt."""


def read_item(line: str, number: int) -> JudgeItem:
    """A line: `{"prompt"}`, `{"turns": [..]}` as MT-bench has it, or a battle of `fcd arena export --format json`.

    Raises:
        FcdError: it is none of these, with its number.
    """
    try:
        record = msgspec.json.decode(line)
        if not isinstance(record, dict):
            raise ValueError("not an object")
        if "stored" in record:
            return _of_battle(record)
        prompts = record.get("turns") or [record.get("prompt") or record.get("question")]
        answers = {str(name): _texts(text) for name, text in (record.get("answers") or {}).items()}
        item = JudgeItem([str(prompt) for prompt in prompts if prompt], _reference(record.get("reference")), answers)
    except (msgspec.DecodeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise FcdError(f"Line {number} of the prompts cannot be used: {error}.") from None
    if not item.prompts:
        raise FcdError(f"Line {number} of the prompts has neither 'prompt' nor 'turns'.")
    return item


def judge_messages(
    prompts: list[str], first: list[str], second: list[str], reference: str = ""
) -> list[dict[str, str]]:
    """What the judge is asked, with `first` shown as assistant A."""
    parts = [f"[Reference answer]\n{reference}"] if reference else []
    parts += [_conversation("A", prompts, first), _conversation("B", prompts, second)]
    return [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": "\n\n".join(parts)}]


def read_verdict(text: str) -> Outcome | None:
    """The last verdict in a judgment: `a`, `b` or `tie`, told from the order shown; None where there is none."""
    found = _VERDICT.findall(text) or _LOOSE.findall(text)
    return {"A": "a", "B": "b", "C": "tie"}[found[-1]] if found else None  # type: ignore[return-value]


def turned(outcome: Outcome) -> Outcome:
    """A verdict of the swapped order, told from the first order's sides."""
    return {"a": "b", "b": "a"}.get(outcome, outcome)  # type: ignore[return-value]


def combine(first: Outcome, second: Outcome) -> Outcome:
    """Of both orders, told from the same sides: what they agree on, else a tie."""
    return first if first == second else "tie"


def conversation(prompts: list[str], answers: list[str]) -> list[dict[str, Any]]:
    return [
        message
        for prompt, answer in zip(prompts, answers, strict=True)
        for message in ({"role": "user", "content": prompt}, {"role": "assistant", "content": answer})
    ]


def _conversation(name: str, prompts: list[str], answers: list[str]) -> str:
    lines = [f"[The conversation with assistant {name}]"]
    for prompt, answer in zip(prompts, answers, strict=True):
        lines += [f"Person: {prompt}", f"Assistant {name}: {answer}"]
    return "\n".join([*lines, f"[The end of the conversation with assistant {name}]"])


def _of_battle(record: dict[str, Any]) -> JudgeItem:
    turns = record["turns"]
    answers = {
        record["stored"]["model_a"]: [turn["a"]["text"] for turn in turns],
        record["stored"]["model_b"]: [turn["b"]["text"] for turn in turns],
    }
    return JudgeItem([turn["prompt"] for turn in turns], "", answers)


def _texts(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]


def _reference(value: Any) -> str:
    return "\n\n".join(_texts(value)) if value else ""
