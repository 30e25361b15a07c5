"""Puts dialogues together to conversations that fill rows of a given length."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from fcd.builtin.generator import persona
from fcd.builtin.generator.base import Context, Turn
from fcd.builtin.generator.guard import is_kept_out
from fcd.builtin.generator.registry import SKILLS, WEIGHTS
from fcd.builtin.tokenizer import PAD, Encoder

Row = tuple[list[int], list[int]]

_TRIES: Final = 6


def new_context(rng: Random, words: Sequence[str], open_prompts: Sequence[str]) -> Context:
    """The start of a conversation for training."""
    return Context(rng=rng, words=words, open_prompts=open_prompts)


def write_dialogue(ctx: Context) -> list[Turn]:
    """One dialogue of a skill chosen by weight, to train on: none of its questions is held out."""
    while True:
        known = dict(ctx.known)
        turns = ctx.rng.choices(SKILLS, WEIGHTS)[0].make(ctx)
        if not any(is_kept_out(turn.question) for turn in turns):
            return turns
        ctx.known = known


def write_row(ctx: Context, encoder: Encoder, length: int) -> Row:
    """Token ids and loss mask of one conversation, `length` long: as many dialogues as fit, then padding."""
    ids: list[int] = []
    mask: list[int] = []
    system = persona.system_prompt(ctx)
    if system:
        ids = encoder.turn("system", system)
        mask = [0] * len(ids)
    misses = 0
    while misses < _TRIES and length - len(ids) > 24:
        known = dict(ctx.known)
        piece: list[int] = []
        learn: list[int] = []
        for turn in write_dialogue(ctx):
            tokens, marks = encoder.exchange(turn.question, turn.answer)
            piece += tokens
            learn += marks
        if len(ids) + len(piece) > length:
            misses += 1
            ctx.known = known
            continue
        ids += piece
        mask += learn
        if length < 256 and ctx.rng.random() < 0.3:
            break
    padding = length - len(ids)
    return ids + [PAD] * padding, mask + [0] * padding
