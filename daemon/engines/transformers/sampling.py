"""Logits to tokens for all rows of a step at once. Pure tensor functions; the noise comes from (seed, position) alone.

Order: logit bias and bans, repetition penalty (Keskar et al. 2019, as transformers does it, over prompt and
completion), presence and frequency penalties (OpenAI's, over the completion), temperature, top-k, top-p, min-p, then
one draw by inverting the cumulative distribution at a uniform number that is a hash of the seed and the position.
So a row's draw does not depend on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

_BLOCKS = (256, 128, 64)
_WIDTHS = (512, 8192)
"""Nucleus sampling sorts so many of the likeliest tokens; more, and in the end all, for rows where they fall short."""


@dataclass(slots=True)
class TokenCounts:
    """The distinct tokens of one sequence, for penalties: `ids[:size]`, how often each was generated, and where."""

    ids: npt.NDArray[np.int64]
    generated: npt.NDArray[np.float32]
    size: int = 0
    places: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, prompt: Sequence[int], completion: Sequence[int]) -> TokenCounts:
        counts = cls(np.zeros(256, np.int64), np.zeros(256, np.float32))
        for token in prompt:
            counts.add(token, 0.0)
        for token in completion:
            counts.add(token, 1.0)
        return counts

    def add(self, token: int, times: float = 1.0) -> None:
        place = self.places.get(token)
        if place is None:
            if self.size == len(self.ids):
                self.ids = np.concatenate([self.ids, np.zeros_like(self.ids)])
                self.generated = np.concatenate([self.generated, np.zeros_like(self.generated)])
            place = self.places[token] = self.size
            self.ids[place] = token
            self.size += 1
        self.generated[place] += times


@dataclass(slots=True)
class RowParams:
    """What one row asks for, as plain numbers."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    seed: int = 0

    @property
    def penalised(self) -> bool:
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0


class SamplingBatch:
    """The parameters of a batch of rows as tensors; built once for as long as the batch stays the same.

    Args:
        rows: one entry per row of the logits.
        vocab_size: width of the logits.
    """

    def __init__(self, rows: Sequence[RowParams], vocab_size: int, device: torch.device) -> None:
        self.device = device
        self.size = len(rows)
        self.sampled = [i for i, row in enumerate(rows) if row.temperature > 0.0]
        drawn = [rows[i] for i in self.sampled]
        self.seeds = np.array([row.seed & _MASK for row in drawn], dtype=np.uint64)
        self.temperature = _column([row.temperature for row in drawn], device)
        # How a row is drawn depends on the row alone, so that its neighbours never change its draw.
        groups: dict[int, list[int]] = {}
        for i, row in enumerate(drawn):
            groups.setdefault(_kind(row, vocab_size), []).append(i)
        self.draws = [_Draw([drawn[i] for i in group], group, vocab_size, device) for group in groups.values()]
        self.penalised = [i for i, row in enumerate(rows) if row.penalised]
        kept = [rows[i] for i in self.penalised]
        self.repetition = np.array([row.repetition_penalty for row in kept], np.float32)
        self.presence = np.array([row.presence_penalty for row in kept], np.float32)
        self.frequency = np.array([row.frequency_penalty for row in kept], np.float32)
        self.bias = _bias(rows, vocab_size, device)

    @property
    def plain(self) -> bool:
        """Greedy, and nothing changes the logits: the tokens are their argmax."""
        return not self.sampled and not self.penalised and self.bias is None

    def choose(
        self,
        logits: torch.Tensor,
        positions: Sequence[int],
        counts: Sequence[TokenCounts | None] = (),
        banned: Sequence[tuple[int, int]] = (),
    ) -> torch.Tensor:
        """One token id per row.

        Args:
            logits: `[rows, vocab]`; changed in place unless the batch is plain.
            positions: each row's position in its sequence, which with the seed decides the draw.
            counts: each row's tokens so far; needed for penalised rows only.
            banned: (row, token) pairs that must not be chosen.
        """
        if self.plain and not banned:
            return logits.argmax(-1)
        logits = logits.float()
        if self.bias is not None:
            rows, tokens, values = self.bias
            logits[rows, tokens] += values
        if self.penalised:
            self._penalise(logits, counts)
        if banned:
            index = torch.tensor(banned, device=self.device)
            logits[index[:, 0], index[:, 1]] = -torch.inf
        if not self.sampled:
            return logits.argmax(-1)
        everything = len(self.sampled) == self.size
        drawn = logits if everything else logits[self.sampled]
        uniform = self._on_device(uniforms(self.seeds, np.array([positions[i] for i in self.sampled], dtype=np.uint64)))
        tokens = self._draw(drawn.div_(self.temperature), uniform)
        if everything:
            return tokens
        chosen = logits.argmax(-1)
        chosen[self.sampled] = tokens
        return chosen

    def _on_device(self, values: npt.NDArray[np.float64]) -> torch.Tensor:
        """Copied without waiting for what a GPU is doing, so that the host can go on."""
        tensor = torch.from_numpy(values)
        if self.device.type != "cuda":
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def _penalise(self, logits: torch.Tensor, counts: Sequence[TokenCounts | None]) -> None:
        present = [c for i in self.penalised if (c := counts[i]) is not None]
        sizes = [c.size for c in present]
        ids = torch.from_numpy(np.concatenate([c.ids[: c.size] for c in present])).to(self.device)
        made = torch.from_numpy(np.concatenate([c.generated[: c.size] for c in present])).to(self.device)
        rows = torch.from_numpy(np.repeat(np.array(self.penalised), sizes)).to(self.device)
        repetition = torch.from_numpy(np.repeat(self.repetition, sizes)).to(self.device)
        presence = torch.from_numpy(np.repeat(self.presence, sizes)).to(self.device)
        frequency = torch.from_numpy(np.repeat(self.frequency, sizes)).to(self.device)
        values = logits[rows, ids]
        values = torch.where(values > 0, values / repetition, values * repetition)
        logits[rows, ids] = values - frequency * made - presence * (made > 0)

    def _draw(self, logits: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        if len(self.draws) == 1:
            return self.draws[0].choose(logits, uniform)
        tokens = torch.empty(logits.shape[0], dtype=torch.long, device=self.device)
        for part in self.draws:
            tokens[part.rows] = part.choose(logits[part.rows], uniform[part.rows])
        return tokens


class _Draw:
    """Rows that are all drawn in the same way. `rows` are their places among the sampled rows."""

    def __init__(self, params: Sequence[RowParams], rows: list[int], vocab_size: int, device: torch.device) -> None:
        self.rows = torch.tensor(rows, device=device)
        self.top_k = _top_k(params, vocab_size, device)
        self.widest = vocab_size if self.top_k is None else int(self.top_k.max())
        self.top_p = _column([row.top_p for row in params], device) if any(r.top_p < 1.0 for r in params) else None
        self.min_p = _column([row.min_p for row in params], device) if any(r.min_p > 0.0 for r in params) else None

    def choose(self, logits: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        """One token id per row, from logits that the temperature has been applied to."""
        if self.top_k is None and self.top_p is None:
            weights = logits.sub_(logits.amax(-1, keepdim=True)).exp_()
            return draw(self._cut_min_p(weights), uniform)
        if self.top_k is not None:
            return self._ranked(logits, uniform, self.widest, None)[0]
        tokens = torch.empty(logits.shape[0], dtype=torch.long, device=logits.device)
        left = torch.arange(logits.shape[0], device=logits.device)
        # Each row stops at the first width that holds its nucleus: which one that is depends on the row alone.
        for width in (*(w for w in _WIDTHS if w < self.widest), self.widest):
            found, short = self._ranked(logits[left], uniform[left], width, left)
            tokens[left] = found
            left = left[short]
            if not len(left):
                break
        return tokens

    def _ranked(
        self, logits: torch.Tensor, uniform: torch.Tensor, width: int, rows: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw from the `width` likeliest tokens; the flags say which rows these do not hold all of.

        `rows` are the places of these logits among the rows of this group, None for all of them.
        """
        top, order = torch.topk(logits, width, dim=-1)
        if self.top_k is None:
            probabilities = torch.exp(top - torch.logsumexp(logits, -1, keepdim=True))
        else:
            outside = torch.arange(width, device=logits.device) >= self.top_k
            probabilities = torch.softmax(top.masked_fill(outside, -torch.inf), -1)
        short = torch.zeros(logits.shape[0], dtype=torch.bool, device=logits.device)
        if self.top_p is not None:
            top_p = self.top_p if rows is None else self.top_p[rows]
            through = probabilities.cumsum(-1)
            if width < self.widest:
                short = through[:, -1] < top_p[:, 0]
            outside = through - probabilities >= top_p
            outside[:, 0] = False
            probabilities = probabilities.masked_fill(outside, 0.0)
        return _draw_by_id(self._cut_min_p(probabilities, rows), order, logits.shape[-1], uniform), short

    def _cut_min_p(self, probabilities: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        if self.min_p is None:
            return probabilities
        min_p = self.min_p if rows is None else self.min_p[rows]
        floor = probabilities.amax(-1, keepdim=True) * min_p
        return probabilities.masked_fill(probabilities < floor, 0.0)


def draw(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The index at which each row's cumulative weight passes `uniform` times its sum.

    In two levels, blocks and then inside the block, so that no running sum over the vocabulary is written.

    Args:
        weights: `[rows, n]`, not negative, not all zero in a row.
        uniform: `[rows]` in [0, 1), float64.
    """
    rows, n = weights.shape
    size = next((size for size in _BLOCKS if n % size == 0), _BLOCKS[0])
    if n % size:
        weights = torch.nn.functional.pad(weights, (0, -n % size))
    blocks = weights.view(rows, -1, size)
    sums = blocks.sum(-1).double().cumsum(-1)
    target = uniform[:, None] * sums[:, -1:]
    block = torch.searchsorted(sums, target, right=True).clamp_(max=sums.shape[1] - 1)
    before = torch.where(block > 0, sums.gather(1, (block - 1).clamp_(min=0)), 0.0)
    chosen = blocks[torch.arange(rows, device=weights.device), block.squeeze(1)].double()
    inside = chosen.cumsum(-1)
    index = torch.searchsorted(inside, target - before, right=True)
    # Rounding can point past the last possible token of the block: step back onto it.
    last = size - 1 - (chosen.flip(-1) > 0).to(torch.int8).argmax(-1, keepdim=True)
    # A row that is not a number (a model that overflows) points anywhere; on a GPU that would end the process.
    return (block * size + torch.minimum(index, last)).squeeze(1).clamp_(max=n - 1)


def _draw_by_id(weights: torch.Tensor, ids: torch.Tensor, vocab: int, uniform: torch.Tensor) -> torch.Tensor:
    """A token among `ids`, whose weights these are, drawn in the order of the vocabulary.

    In the order of likelihood a draw would turn on which of two nearly equal tokens comes first, and rounding decides
    that differently from one batch to the next.
    """
    if ids.shape[1] * 8 > vocab:
        return draw(weights.new_zeros(weights.shape[0], vocab).scatter_(1, ids, weights), uniform)
    ascending, places = ids.sort(-1)
    picked = draw(weights.gather(-1, places), uniform)
    return ascending.gather(-1, picked[:, None]).squeeze(-1)


def logprobs_of(
    logits: torch.Tensor, tokens: torch.Tensor, top: int
) -> tuple[list[float], list[list[int]], list[list[float]]]:
    """Log-probabilities of the raw logits: each row's chosen token, and its `top` likeliest with theirs."""
    table = torch.log_softmax(logits.float(), -1)
    chosen: list[float] = table.gather(-1, tokens[:, None]).squeeze(-1).tolist()
    if top <= 0:
        return chosen, [[] for _ in chosen], [[] for _ in chosen]
    values, ids = torch.topk(table, min(top, table.shape[-1]), dim=-1)
    return chosen, ids.tolist(), values.tolist()


_MASK = (1 << 64) - 1


def uniforms(seeds: npt.NDArray[np.uint64], positions: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """A uniform number in [0, 1) for each (seed, position): two rounds of SplitMix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        mixed = _mix(_mix(seeds) + positions * np.uint64(0x9E3779B97F4A7C15))
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def choice_seed(seed: int, index: int) -> int:
    """The seed of choice `index` of a request: choice 0 keeps the request's own."""
    return (seed + index * 0xD1B54A32D192ED03) & _MASK


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: npt.NDArray[np.uint64] = x ^ (x >> np.uint64(31))
        return mixed


def _kind(row: RowParams, vocab_size: int) -> int:
    if 0 < row.top_k < vocab_size:
        return 1 if row.top_k <= _WIDTHS[0] else 2
    return 3 if row.top_p < 1.0 else 0


def _column(values: Sequence[float], device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device).unsqueeze(1)


def _top_k(rows: Sequence[RowParams], vocab_size: int, device: torch.device) -> torch.Tensor | None:
    if not any(0 < row.top_k < vocab_size for row in rows):
        return None
    sizes = [min(row.top_k, vocab_size) if row.top_k > 0 else vocab_size for row in rows]
    return torch.tensor(sizes, device=device).unsqueeze(1)


def _bias(
    rows: Sequence[RowParams], vocab_size: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
    entries = [(i, t, b) for i, row in enumerate(rows) for t, b in row.logit_bias.items() if 0 <= t < vocab_size]
    if not entries:
        return None
    index, tokens, values = zip(*entries, strict=True)
    return (
        torch.tensor(index, device=device),
        torch.tensor(tokens, device=device),
        torch.tensor(values, dtype=torch.float32, device=device),
    )
