"""Masking, pacing and languages: pure pieces."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.arena.language import code_of, language_of
from daemon.arena.masking import MASK, Masker, Vocabulary, masked, names_itself
from daemon.arena.pacing import Pacer

VOCABULARY = Vocabulary(["guide", "guide-mini", "Qwen/Qwen3-0.6B", "meta-llama/Llama-3.2-1B", "qwendolyn-9b"])


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("I am guide, a small model.", f"I am {MASK}, a small model."),
        ("Follow the guide to Rome. A guidebook.", "Follow the guide to Rome. A guidebook."),
        ("I'm Qwen2.5-7B-Instruct!", f"I'm {MASK}!"),
        ("Q w e n, **Qwen**, QWEN.", f"{MASK}, **{MASK}**, {MASK}."),
        ("Llama 3.1 8B and llamas", f"{MASK} and {MASK}"),
        ("I use Google. I was trained by Google.", f"I use Google. I was trained by {MASK}."),
        ("我是通义千问。", f"我是{MASK}{MASK}。"),
        ("call all am a", "call all am a"),
        ("guide-mini says", f"{MASK} says"),
        ("", ""),
    ],
)
def test_names_are_hidden(said: str, shown: str) -> None:
    assert masked(said, VOCABULARY) == shown


pieces = st.lists(
    st.sampled_from(
        [
            "I am ",
            "guide",
            "Q",
            "wen",
            "dolyn",
            "-9b",
            " ",
            ".",
            "2.5-7B",
            "lla",
            "ma",
            "é",
            "通义",
            "千问",
            "\n",
            "My name is ",
            "x",
        ]
    ),
    max_size=30,
)


@settings(max_examples=200, deadline=None)
@given(pieces, st.integers(1, 7))
def test_how_an_answer_is_cut_into_pieces_changes_nothing(parts: list[str], size: int) -> None:
    """What is shown only grows, and ends as if the whole had come at once."""
    text = "".join(parts)
    masker, shown = Masker(VOCABULARY), ""
    for start in range(0, len(text), size):
        masker.feed(text[start : start + size])
        assert masker.text.startswith(shown)
        shown = masker.text
    masker.finish()
    assert masker.text == masked(text, VOCABULARY)
    assert masker.raw_length(len(masker.text)) == len(text)


@settings(max_examples=100, deadline=None)
@given(pieces, st.integers(0, 60))
def test_what_is_kept_of_a_cut_answer_shows_no_more_than_was_seen(parts: list[str], cut: int) -> None:
    masker = Masker(VOCABULARY)
    masker.feed("".join(parts))
    masker.finish()
    cut = min(cut, len(masker.text))
    kept = "".join(parts)[: masker.raw_length(cut)]
    assert len(kept.replace(MASK, "")) >= 0
    assert masked(kept, VOCABULARY).rstrip() == masker.text[: len(masked(kept, VOCABULARY))].rstrip()


def test_only_its_own_name_flags_an_answer() -> None:
    assert names_itself("I am Qwen.", "Qwen/Qwen3-0.6B")
    assert not names_itself("Unlike Llama, I am small.", "Qwen/Qwen3-0.6B")
    assert names_itself("As guide-mini, I say so", "guide-mini")
    assert not names_itself("Here is a guide to it.", "guide")


def test_a_long_answer_is_masked_in_linear_time() -> None:
    import time

    masker = Masker(VOCABULARY)
    began = time.perf_counter()
    for _ in range(20_000):
        masker.feed("word ")
    masker.finish()
    assert time.perf_counter() - began < 5
    assert len(masker.text) == 100_000


def paced(speed_a: float, speed_b: float, length_a: int, length_b: int, late_b: float = 0.0) -> list[tuple[int, int]]:
    """What is shown of both sides every 50 ms."""
    pacer, shown, now = Pacer(), [], 0.0
    while not (pacer.is_over(pacer.a) and pacer.is_over(pacer.b)) and len(shown) < 10_000:
        for side, speed, length, late in ((pacer.a, speed_a, length_a, 0.0), (pacer.b, speed_b, length_b, late_b)):
            side.grow(min(length, int(max(0.0, now - late) * speed)), now)
            if now - late >= length / speed:
                side.end(now)
        pacer.advance(now)
        shown.append((pacer.shown(pacer.a), pacer.shown(pacer.b)))
        now += 0.05
    return shown


@settings(max_examples=60, deadline=None)
@given(st.floats(20, 2000), st.floats(20, 2000), st.integers(0, 800), st.integers(0, 800), st.floats(0, 2))
def test_both_sides_are_shown_to_the_same_place(a: float, b: float, la: int, lb: int, late: float) -> None:
    shown = paced(a, b, la, lb, late)
    assert shown[-1] == (la, lb)
    for (one, other), (later_one, later_other) in pairwise(shown):
        assert later_one >= one
        assert later_other >= other
        assert min(one, lb) <= other or other == lb
        assert one == min(max(one, other), la)


@settings(max_examples=40, deadline=None)
@given(st.floats(50, 500), st.floats(2, 20), st.integers(100, 400), st.integers(500, 900))
def test_the_pace_is_the_same_whichever_side_is_the_slow_one(slow: float, times: float, short: int, long: int) -> None:
    """Short and fast beside long and slow, or short and slow beside long and fast: the same curve, as far as can be."""
    one = [max(pair) for pair in paced(slow * times, slow, short, long)]
    other = [max(pair) for pair in paced(slow, slow * times, short, long)]
    assert abs(len(one) - len(other)) <= 0.1 * max(len(one), len(other)) + 12
    for early, late in zip(one, other, strict=False):
        assert abs(early - late) <= 0.12 * long + slow * 0.35


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Write a poem about the sea", "en"), ("Schreib mir ein Gedicht über das Meer", "de"),
        ("Écris un poème sur la mer pour moi", "fr"), ("Escribe un poema sobre el mar", "es"),
        ("Напиши стихотворение о море", "ru"), ("写一首关于大海的诗", "zh"), ("海についての詩を書いて", "ja"),
        ("바다에 대한 시를 써줘", "ko"), ("12345 + 5", "unknown"),
    ],
)  # fmt: skip
def test_languages(text: str, code: str) -> None:
    assert language_of(text) == code


def test_fastchats_names_of_languages_are_codes_here() -> None:
    assert (code_of("English"), code_of("unknown"), code_of("en"), code_of("Klingon")) == (
        "en", "unknown", "en", "klingon",
    )  # fmt: skip
