"""Training batches: shards written by many processes, each from its own seed, so that a run can be repeated."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.pool import AsyncResult
from random import Random
from typing import Any, Final

import numpy as np

from fcd.builtin.generator.conversation import new_context, write_row
from fcd.builtin.tokenizer import Encoder

# (row length, rows per full batch, batches per shard): short rows hold a question or two, the longest fill the context.
BUCKETS: Final = ((144, 416, 6), (640, 96, 2), (2048, 30, 2))


@dataclass(frozen=True)
class Batch:
    """Rows of one length: `ids` uint16 [rows, length], `mask` bool [rows, length], True where the loss counts."""

    ids: Any
    mask: Any


@dataclass(frozen=True)
class Source:
    """Everything that a shard is written from."""

    tokenizer_json: str
    words: Sequence[str]
    open_prompts: Sequence[str]
    seed: int
    scale: float = 1.0


def write_shard(source: Source, index: int) -> list[Batch]:
    """Shard `index`: the same batches every time. `source.scale` shrinks the batches for small machines."""
    from tokenizers import Tokenizer

    encoder = Encoder(Tokenizer.from_str(source.tokenizer_json))
    rng = Random(f"{source.seed}:{index}")
    batches: list[Batch] = []
    for length, rows, count in BUCKETS:
        for _ in range(count):
            size = max(1, int(rows * source.scale))
            ids = np.zeros((size, length), dtype=np.uint16)
            mask = np.zeros((size, length), dtype=np.bool_)
            for row in range(size):
                ctx = new_context(rng, source.words, source.open_prompts)
                ids[row], mask[row] = write_row(ctx, encoder, length)
            batches.append(Batch(ids, mask))
    rng.shuffle(batches)
    return batches


_source: Source | None = None


def _start(source: Source) -> None:
    global _source
    _source = source
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _shard(index: int) -> list[Batch]:
    assert _source is not None
    return write_shard(_source, index)


class Stream:
    """`shards` shards in order, again and again; kept in memory once written. Close it to end the processes."""

    def __init__(self, source: Source, shards: int, processes: int) -> None:
        self._pool = multiprocessing.get_context("spawn").Pool(processes, _start, (source,))
        self._shards: list[AsyncResult[list[Batch]]] = [
            self._pool.apply_async(_shard, (index,)) for index in range(shards)
        ]

    def __iter__(self) -> Iterator[Batch]:
        while True:
            for shard in self._shards:
                yield from shard.get()

    def close(self) -> None:
        self._pool.terminate()
        self._pool.join()
