"""Streaming text equals decoding everything at once, whatever the tokens."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.engines.transformers import detokenizer
from daemon.engines.transformers.detokenizer import DetokenizerFactory
from tests.tiny_models import make_metaspace_tokenizer, make_tokenizer, make_unigram_tokenizer

KINDS = {"bytes": make_tokenizer, "fallback": make_metaspace_tokenizer, "unigram": make_unigram_tokenizer}


@cache
def tokenizer(kind: str) -> Any:
    return KINDS[kind]()


@cache
def factory(kind: str) -> DetokenizerFactory:
    return DetokenizerFactory(tokenizer(kind))


def stream(kind: str, ids: list[int], *, skip: bool = True) -> tuple[str, list[str]]:
    detokenizer = factory(kind).make(skip_special_tokens=skip)
    pieces = [detokenizer.feed(i) for i in ids]
    return "".join(pieces) + detokenizer.finish(), pieces


def whole(kind: str, ids: list[int], *, skip: bool = True) -> str:
    return str(tokenizer(kind).backend_tokenizer.decode(ids, skip_special_tokens=skip))


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_token_ids(kind: str, data: st.DataObject) -> None:
    size = len(tokenizer(kind))
    ids = data.draw(st.lists(st.integers(0, size - 1), max_size=40))
    skip = data.draw(st.booleans())
    assert stream(kind, ids, skip=skip)[0] == whole(kind, ids, skip=skip)


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_text_streams_whole_characters(kind: str, text: str) -> None:
    ids = tokenizer(kind).encode(text, add_special_tokens=False)
    got, pieces = stream(kind, ids)
    assert got == whole(kind, ids)
    if "\ufffd" not in got:
        assert all("\ufffd" not in piece for piece in pieces)
    if kind == "bytes":
        assert got == text


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(alphabet="ab é€😀.", max_size=20), special=st.integers(0, 20))
@settings(max_examples=100, deadline=None)
def test_where_tokens_stand(kind: str, text: str, special: int) -> None:
    ids: list[int] = tokenizer(kind).encode(text, add_special_tokens=False)
    ids.insert(min(special, len(ids)), int(tokenizer(kind).all_special_ids[0]))
    detokenizer = factory(kind).make(skip_special_tokens=True)
    for at, token in enumerate(ids):
        before = whole(kind, ids[:at])
        if not before.endswith("\ufffd"):
            assert detokenizer.place(token) == len(before)
        elif token not in tokenizer(kind).all_special_ids:
            opened = next(n for n in range(at, -1, -1) if not whole(kind, ids[:n]).endswith("\ufffd"))
            assert detokenizer.place(token) == max(len(before.rstrip("\ufffd")), len(whole(kind, ids[:opened])))
        detokenizer.feed(token)


def test_text_flows_and_is_not_kept_to_the_end() -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 4
    for kind in KINDS:
        ids = tokenizer(kind).encode(text, add_special_tokens=False)
        _, pieces = stream(kind, ids)
        assert sum(bool(piece) for piece in pieces) > len(ids) * 0.8


def test_the_places_of_a_long_run_of_bytes_take_no_time_that_grows_with_its_square() -> None:
    decoded = 0

    class Counting:
        byte_ids = frozenset(range(256))

        def decode(self, ids: list[int]) -> str:
            nonlocal decoded
            decoded += len(ids)
            return bytes(ids).decode(errors="replace")

    window = detokenizer._WindowDetokenizer(Counting(), frozenset())  # type: ignore[arg-type]
    for _ in range(4000):
        window.place(0x80)
        window.feed(0x80)
    assert decoded < 65 * 65
