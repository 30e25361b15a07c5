"""The compiled attention of decoding rows against attention written out, and against itself in other company."""

from __future__ import annotations

import math
import random

import numpy
import pytest
import torch

from daemon.engines.transformers.kernels.attending import DecodeAttention, load_decode_attention


@pytest.fixture(scope="module", params=[torch.float32, torch.float16], ids=["fp32", "fp16"])
def kernel(request: pytest.FixtureRequest) -> DecodeAttention:
    found = load_decode_attention(request.param)
    if found is None:
        pytest.skip("this machine has no numba, or PyTorch's threads are not OpenMP's")
    return found


class Batch:
    """Rows of random lengths in slots of a random slab."""

    def __init__(
        self,
        kernel: DecodeAttention,
        seed: int,
        *,
        kv_heads: int,
        group: int,
        key_dim: int,
        value_dim: int,
        capacity: int,
    ) -> None:
        chance = random.Random(seed)
        torch.manual_seed(seed)
        slots = chance.randrange(1, 7)
        self.slots = sorted(chance.sample(range(slots + 2), slots))
        self.positions = [chance.randrange(capacity) for _ in self.slots]
        # As a layer gives them: parts of one product.
        whole = torch.randn(slots, kv_heads * (group + 1), key_dim)
        self.q, self.k = whole.split((kv_heads * group, kv_heads), 1)
        self.v = torch.randn(slots, kv_heads, value_dim)
        self.keys = torch.randn(slots + 2, kv_heads, capacity, key_dim).to(kernel.stored)
        self.values = torch.randn(slots + 2, kv_heads, capacity, value_dim).to(kernel.stored)

    def attend(self, kernel: DecodeAttention, window: int | None, only: int | None = None) -> torch.Tensor:
        rows = slice(None) if only is None else slice(only, only + 1)
        at = torch.tensor([self.slots[rows], self.positions[rows]])
        longest = max(self.positions[rows]) + 1
        q, k, v = self.q[rows], self.k[rows], self.v[rows]
        assert kernel.fits(q, k, v, self.keys)
        return kernel(q, k, v, self.keys, self.values, at, longest, 0.3, window)

    def expected(self, row: int, window: int | None) -> torch.Tensor:
        """In fp64, of the slab as it stands: `[heads, value_dim]`."""
        slot, end = self.slots[row], self.positions[row] + 1
        first = 0 if window is None else max(0, end - window)
        keys, values = (each[slot, :, first:end].double() for each in (self.keys, self.values))
        group = self.q.shape[1] // self.k.shape[1]
        scores = self.q[row].double().view(-1, group, self.q.shape[2]) @ keys.transpose(1, 2) * 0.3
        return (scores.softmax(-1) @ values).reshape(self.q.shape[1], -1)


SHAPES = [
    {"kv_heads": 3, "group": 1, "key_dim": 64, "value_dim": 64, "capacity": 128},
    {"kv_heads": 2, "group": 4, "key_dim": 16, "value_dim": 16, "capacity": 300},
    {"kv_heads": 1, "group": 3, "key_dim": 20, "value_dim": 12, "capacity": 7},
]


@pytest.mark.parametrize("window", [None, 1, 33])
@pytest.mark.parametrize("shape", SHAPES)
def test_kernel_is_attention(kernel: DecodeAttention, threads: int, shape: dict[str, int], window: int | None) -> None:
    for seed in range(8):
        batch = Batch(kernel, seed, **shape)
        before = batch.keys.clone()
        out = batch.attend(kernel, window)
        for row, (slot, position) in enumerate(zip(batch.slots, batch.positions, strict=True)):
            assert torch.equal(batch.keys[slot, :, position], batch.k[row].to(kernel.stored))
            assert torch.equal(batch.values[slot, :, position], batch.v[row].to(kernel.stored))
            assert torch.allclose(out[row].double(), batch.expected(row, window), atol=2e-6)
            before[slot, :, position] = batch.k[row]
        assert torch.equal(batch.keys, before), "it wrote where no row's newest token stands"


@pytest.mark.parametrize("shape", SHAPES)
def test_row_is_the_same_alone_and_in_company(kernel: DecodeAttention, shape: dict[str, int]) -> None:
    batch = Batch(kernel, 5, **shape)
    together = batch.attend(kernel, None)
    for row in range(len(batch.slots)):
        assert torch.equal(batch.attend(kernel, None, only=row)[0], together[row])


def test_extreme_scores(kernel: DecodeAttention) -> None:
    """One key that outweighs all others by far, scores far below it, and no NaN from either."""
    batch = Batch(kernel, 1, kv_heads=1, group=1, key_dim=64, value_dim=64, capacity=64)
    batch.positions = [60] * len(batch.slots)
    batch.keys *= 1000
    out = batch.attend(kernel, None)
    for row in range(len(batch.slots)):
        assert torch.allclose(out[row].double(), batch.expected(row, None), atol=1e-5)


def test_other_kinds_do_not_fit(kernel: DecodeAttention) -> None:
    q, k, keys = torch.randn(1, 2, 8), torch.randn(1, 1, 8), torch.randn(1, 1, 4, 8).to(kernel.stored)
    assert kernel.fits(q, k, k, keys)
    assert not kernel.fits(q.bfloat16(), k, k, keys)
    assert not kernel.fits(q, k, k, keys.bfloat16())
    assert not kernel.fits(torch.randn(1, 8, 2).transpose(1, 2), k, k, keys)


def test_what_fp16_cannot_hold(kernel: DecodeAttention) -> None:
    """The largest number there is stands for it; nothing becomes infinite."""
    batch = Batch(kernel, 2, kv_heads=1, group=1, key_dim=8, value_dim=8, capacity=9)
    batch.v[:] = torch.tensor([1e6, -1e6] * 4)
    out = batch.attend(kernel, 1)
    most = 65504.0 if kernel.stored == torch.float16 else 1e6
    assert torch.equal(out, torch.tensor([most, -most] * 4).expand_as(out))


def test_a_key_that_is_no_number_shows(kernel: DecodeAttention) -> None:
    """In its own head alone, and nothing hides it."""
    batch = Batch(kernel, 3, kv_heads=2, group=2, key_dim=8, value_dim=8, capacity=40)
    batch.positions = [30] * len(batch.slots)
    batch.keys[batch.slots[0], 1, 7] = float("nan")
    out = batch.attend(kernel, None)
    assert out[0, 2:].isnan().all()
    assert out[0, :2].isfinite().all()
    assert out[1:].isfinite().all()


def test_exponential_is_the_exponential(kernel: DecodeAttention) -> None:
    from numba import njit

    from daemon.engines.transformers.kernels.compiling import exponential as compiled

    @njit
    def exponential(x: numpy.float32) -> numpy.float32:
        return compiled(x)

    for x in torch.linspace(-86.9, 0, 4001).tolist():
        want = math.exp(torch.tensor(x).item())
        assert abs(exponential(numpy.float32(x)) - want) <= 2e-7 * want, x
    assert exponential(numpy.float32(-90)) == 0.0
    assert exponential(numpy.float32("-inf")) == 0.0
    assert math.isnan(exponential(numpy.float32("nan")))


def test_a_kernel_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: DecodeAttention, q: torch.Tensor, *_: object) -> torch.Tensor:
        return torch.zeros_like(q)

    monkeypatch.setattr(DecodeAttention, "__call__", wrong)
    assert load_decode_attention(torch.float32) is None
