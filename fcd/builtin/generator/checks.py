"""Checkers of answers: what a right reply must say, independent of its wording. All reject refusals."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from fcd.builtin.generator.base import Check

_REFUSAL = re.compile(r"built-in model|beyond me|out of my reach|outside (of )?(what|my)", re.IGNORECASE)


def is_refusal(reply: str) -> bool:
    """A plain refusal: says that it is a small built-in model and shows a command that gets a real one."""
    return _REFUSAL.search(reply) is not None and re.search(r"fcd (pull|chat -m|load|run) ", reply) is not None


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:['-][^\W_]+)*", text)


def last_number(value: float) -> Check:
    """The last number in the reply is `value`."""

    def check(reply: str) -> bool:
        numbers = re.findall(r"-?\d+(?:\.\d+)?", reply)
        return bool(numbers) and float(numbers[-1]) == value and not is_refusal(reply)

    return check


def says(*needed: str) -> Check:
    """Every one of `needed` appears as whole words (case counts)."""

    def check(reply: str) -> bool:
        return not is_refusal(reply) and all(
            re.search(rf"(?<![\w]){re.escape(text)}(?![\w])", reply) for text in needed
        )

    return check


def says_any(options: Iterable[str]) -> Check:
    """At least one of `options` appears as whole words, in any case."""
    checks = [says(option.lower()) for option in options]
    return lambda reply: any(check(reply.lower()) for check in checks)


def contains(*needed: str) -> Check:
    """Every one of `needed` appears literally."""
    return lambda reply: not is_refusal(reply) and all(text in reply for text in needed)


def ends_with(text: str) -> Check:
    """The reply ends with `text`, but for quotes and a full stop."""
    return lambda reply: (
        reply.strip().rstrip(".!\"'`").endswith(text)
        and (
            len(reply.strip().rstrip(".!\"'`")) == len(text)
            or not reply.strip().rstrip(".!\"'`")[-len(text) - 1].isalnum()
        )
    )


def exactly(text: str) -> Check:
    """The reply is `text`, but for white space around it and quotes."""
    return lambda reply: reply.strip().strip("\"'`").strip() == text


def in_order(items: Sequence[str], *, alone: bool = False) -> Check:
    """The last words of the reply are `items` in this order (`alone`: its only words), separators aside."""

    def check(reply: str) -> bool:
        found = _words(reply)
        return found == list(items) or (not alone and found[-len(items) :] == list(items))

    return check


def refuses(reply: str) -> bool:
    """For questions outside the model's reach."""
    return is_refusal(reply)


def spelled(word: str) -> Check:
    """The single letters of the reply, whatever stands between them, are those of `word`."""
    return lambda reply: re.findall(r"(?<![^\W_])[^\W\d_](?![^\W_])", reply.lower()) == list(word.lower())


def letter_is(letter: str, where: str) -> Check:
    """The reply ends with the single `letter`. `where` only names the check."""
    assert where in ("first", "last")
    return lambda reply: re.search(rf"(?<!\w){letter}\W*$", reply.lower()) is not None


def last_word(word: str) -> Check:
    """The reply's last word is `word`."""
    return lambda reply: _words(reply)[-1:] == [word]
