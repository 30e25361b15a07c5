"""The runner for encoder-decoder models: sequences that decode step by step together, in cohorts.

A cohort is a padded batch with one transformers cache. Models with relative positions (T5) form one cohort whatever
their lengths, padded on the left; for any other, a cohort holds sequences of equal length.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from daemon.engines.transformers.scheduler import Plan, Work
from daemon.engines.transformers.sequence import Sequence

ENCODER_TOKENS = 8192
"""Padded prompt tokens in one encoder forward."""


@dataclass(eq=False)
class Cohort:
    """Row i of every tensor belongs to `sequences[i]`.

    encoder_mask is `[rows, prompt]`, padded on the right; decoder_mask `[rows, length]`, padded on the left.
    """

    sequences: list[Sequence]
    cache: Any
    encoder_mask: torch.Tensor
    decoder_mask: torch.Tensor

    @property
    def length(self) -> int:
        return self.decoder_mask.shape[1]


class Seq2SeqRunner:
    """Runs plans through an encoder-decoder model.

    Args:
        relative: the decoder's positions are relative, so cohorts of different lengths may be merged.
    """

    def __init__(self, model: Any, *, relative: bool) -> None:
        self._model = model
        self._relative = relative
        self._device = model.get_input_embeddings().weight.device
        self._cohorts: list[Cohort] = []
        self._width = 0
        """Of the encoder's hidden states: not every configuration says it in one place."""

    @torch.inference_mode()
    def forward(self, plan: Plan) -> tuple[torch.Tensor, list[Work]]:
        """Compute a plan's decoder tokens; see PackedRunner.forward. New sequences are encoded first."""
        works = [*plan.decode, *plan.prefill]
        by_sequence = {id(work.sequence): work for work in works}
        going = {id(work.sequence) for work in works if work.start > 0}
        self._cohorts = [kept for cohort in self._cohorts if (kept := _keep(cohort, going)) is not None]
        logits: list[torch.Tensor] = []
        owners: list[Work] = []
        for cohort in self._cohorts:
            logits.append(self._step(cohort, [[s.ids[-1]] for s in cohort.sequences]))
            owners += [by_sequence[id(s)] for s in cohort.sequences]
        for batch in _batches(work for work in works if work.start == 0):
            cohort, first = self._begin([work.sequence for work in batch])
            self._cohorts.append(cohort)
            logits.append(first)
            owners += batch
        self._merge()
        for work in works:
            assert work.sequence.row is not None
            work.sequence.row.length = work.start + work.count
        return torch.cat(logits), owners

    def memory_bytes(self) -> int:
        return sum(t.nbytes for cohort in self._cohorts for t in _tensors(cohort.cache))

    def _begin(self, sequences: list[Sequence]) -> tuple[Cohort, torch.Tensor]:
        """Encode a batch of prompts and compute what their decoders hold already (equally much for all)."""
        from transformers import DynamicCache, EncoderDecoderCache

        prompts = [s.encoder_ids or [] for s in sequences]
        longest = max(len(ids) for ids in prompts)
        ids = torch.tensor([[*p, *[0] * (longest - len(p))] for p in prompts], device=self._device)
        mask = torch.tensor([[1] * len(p) + [0] * (longest - len(p)) for p in prompts], device=self._device)
        hidden = self._model.get_encoder()(input_ids=ids, attention_mask=mask, return_dict=True)
        self._width = hidden[0].shape[-1]
        decoder_mask = torch.zeros(len(sequences), 0, dtype=torch.long, device=self._device)
        cohort = Cohort(sequences, EncoderDecoderCache(DynamicCache(), DynamicCache()), mask, decoder_mask)
        return cohort, self._step(cohort, [list(s.ids) for s in sequences], hidden)

    def _step(self, cohort: Cohort, tokens: list[list[int]], encoded: Any = None) -> torch.Tensor:
        """One decoder forward; logits of the last position, `[rows, vocab]`."""
        ids = torch.tensor(tokens, device=self._device)
        cohort.decoder_mask = torch.cat([cohort.decoder_mask, torch.ones_like(ids)], 1)
        if encoded is None:
            from transformers.modeling_outputs import BaseModelOutput

            # The cross-attention reads its cache; only the width of this placeholder is looked at.
            rows, prompt = cohort.encoder_mask.shape
            like = self._model.get_input_embeddings().weight
            blank = torch.empty(1, 1, self._width, dtype=like.dtype, device=like.device)
            encoded = BaseModelOutput(last_hidden_state=blank.expand(rows, prompt, -1))
        output = self._model(
            encoder_outputs=encoded,
            attention_mask=cohort.encoder_mask,
            decoder_input_ids=ids,
            decoder_attention_mask=cohort.decoder_mask,
            past_key_values=cohort.cache,
            use_cache=True,
            return_dict=True,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _merge(self) -> None:
        merged: dict[int, Cohort] = {}
        for cohort in self._cohorts:
            place = 0 if self._relative else cohort.length
            merged[place] = _join(merged[place], cohort) if place in merged else cohort
        self._cohorts = list(merged.values())


def _batches(works: Iterable[Work]) -> list[list[Work]]:
    """Works that can begin together: equally many decoder tokens, and a bounded size once padded."""
    batches: list[list[Work]] = []
    for work in sorted(works, key=lambda w: (w.count, len(w.sequence.encoder_ids or ()))):
        size = len(work.sequence.encoder_ids or ())
        last = batches[-1] if batches else None
        if last is None or last[0].count != work.count or (len(last) + 1) * size > ENCODER_TOKENS:
            batches.append([work])
        else:
            last.append(work)
    return batches


def _tensors(cache: Any) -> list[torch.Tensor]:
    layers = [*cache.self_attention_cache.layers, *cache.cross_attention_cache.layers]
    return [tensor for layer in layers for tensor in (layer.keys, layer.values)]


def _keep(cohort: Cohort, going: set[int]) -> Cohort | None:
    """The rows whose sequences go on, without the padding that nobody needs any more."""
    rows = [i for i, s in enumerate(cohort.sequences) if id(s) in going]
    if len(rows) == len(cohort.sequences):
        return cohort
    if not rows:
        return None
    index = torch.tensor(rows, device=cohort.decoder_mask.device)
    encoder_mask, decoder_mask = cohort.encoder_mask[index], cohort.decoder_mask[index]
    prompt = int(encoder_mask.sum(1).max())
    unused = cohort.length - int(decoder_mask.sum(1).max())
    for layer in cohort.cache.self_attention_cache.layers:
        layer.keys, layer.values = layer.keys[index, :, unused:], layer.values[index, :, unused:]
    for layer in cohort.cache.cross_attention_cache.layers:
        layer.keys, layer.values = layer.keys[index, :, :prompt], layer.values[index, :, :prompt]
    kept = [cohort.sequences[i] for i in rows]
    return Cohort(kept, cohort.cache, encoder_mask[:, :prompt], decoder_mask[:, unused:])


def _join(a: Cohort, b: Cohort) -> Cohort:
    """Two cohorts as one; the cache of `a` takes in that of `b`."""
    length = max(a.length, b.length)
    prompt = max(a.encoder_mask.shape[1], b.encoder_mask.shape[1])
    pairs = [
        (a.cache.self_attention_cache, b.cache.self_attention_cache, length, True),
        (a.cache.cross_attention_cache, b.cache.cross_attention_cache, prompt, False),
    ]
    for mine, other, size, left in pairs:
        for layer, more in zip(mine.layers, other.layers, strict=True):
            layer.keys = torch.cat([_pad(layer.keys, size, left), _pad(more.keys, size, left)])
            layer.values = torch.cat([_pad(layer.values, size, left), _pad(more.values, size, left)])
    return Cohort(
        [*a.sequences, *b.sequences],
        a.cache,
        torch.cat([_pad_mask(a.encoder_mask, prompt, False), _pad_mask(b.encoder_mask, prompt, False)]),
        torch.cat([_pad_mask(a.decoder_mask, length, True), _pad_mask(b.decoder_mask, length, True)]),
    )


def _pad(tensor: torch.Tensor, length: int, left: bool) -> torch.Tensor:
    missing = length - tensor.shape[-2]
    return F.pad(tensor, (0, 0, missing, 0) if left else (0, 0, 0, missing)) if missing else tensor


def _pad_mask(mask: torch.Tensor, length: int, left: bool) -> torch.Tensor:
    missing = length - mask.shape[-1]
    return F.pad(mask, (missing, 0) if left else (0, missing)) if missing else mask
