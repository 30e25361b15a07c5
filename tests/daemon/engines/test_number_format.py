"""fp32, bf16 or packed 16-bit weights on a CPU: by what there is, by memory, then by measuring once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from daemon.engines.base import LoadOptions
from daemon.engines.transformers.half import half_is_supported
from daemon.engines.transformers.loader import load_model
from daemon.engines.transformers.number_format import PACKED, NumberFormat, choose_on_cpu, fastest
from tests.tiny_models import tiny_model

CONFIG = SimpleNamespace(hidden_size=64, intermediate_size=128)
MANY = 10**12
FP32, BF16, FP16 = NumberFormat(torch.float32), NumberFormat(torch.bfloat16), NumberFormat(torch.float16)


def speed(**slower: float):  # type: ignore[no-untyped-def]
    """Times by kind: 1 second a row unless said otherwise."""
    return lambda kind, rows: rows * slower.get(kind, 1.0)


@pytest.mark.parametrize(("slower", "want"), [(0.5, BF16), (1.0, BF16), (2.0, FP32)])
def test_the_faster_one_is_taken_and_kept(slower: float, want: NumberFormat, tmp_path: Path) -> None:
    asked: list[tuple[str, int]] = []

    def time_of(kind: str, rows: int) -> float:
        asked.append((kind, rows))
        return rows * (slower if kind == "bfloat16" else 1.0)

    cache = tmp_path / "deep" / "measured.json"

    def choose() -> NumberFormat:
        return choose_on_cpu(CONFIG, 1000, MANY, cache, time_of=time_of, has_packed=False)

    assert choose() == want
    assert asked
    asked.clear()
    assert choose() == want
    assert not asked, "what was measured once is kept"
    cache.write_text("{broken")
    assert choose() == want
    assert asked


def test_packed_weights_are_measured_against_what_else_takes_16_bits(tmp_path: Path) -> None:
    cache = tmp_path / "measured.json"

    def choose(wanted: torch.dtype | None, available: int = MANY, **slower: float) -> NumberFormat:
        cache.unlink(missing_ok=True)
        return choose_on_cpu(CONFIG, 1000, available, cache, wanted, speed(**slower), has_packed=True)

    assert choose(None, bfloat16=2.0) == NumberFormat(torch.float32, packed=True)
    assert choose(None, available=0, bfloat16=2.0) == NumberFormat(torch.float32, packed=True), "they are not wide"
    assert choose(None, bfloat16=0.5) == BF16, "a CPU with instructions for it"
    assert choose(torch.bfloat16, bfloat16=2.0) == NumberFormat(torch.bfloat16, packed=True)
    assert choose(torch.float16, float16=2.0) == NumberFormat(torch.float16, packed=True)
    assert choose(torch.float16, float16=0.5) == FP16
    assert choose(torch.float32, float32=100.0) == FP32, "what is asked for is kept to"


def test_one_choice_is_not_taken_for_another(tmp_path: Path) -> None:
    cache = tmp_path / "measured.json"
    for packed, want in ((False, BF16), (True, NumberFormat(torch.float32, packed=True)), (False, BF16)):
        slow = {"bfloat16": 3.0, "float32": 4.0}
        assert choose_on_cpu(CONFIG, 1000, MANY, cache, None, speed(**slow), packed) == want


def test_formats_say_what_is_kept_in_what() -> None:
    assert str(NumberFormat(torch.float32, packed=True)) == "float32 (16-bit weights)"
    assert [str(each) for each in (FP32, BF16, NumberFormat(torch.bfloat16, packed=True))] == [
        "float32",
        "bfloat16",
        "bfloat16",
    ]


def test_every_number_of_rows_counts_alike() -> None:
    times = {("a", 1): 1.0, ("b", 1): 2.0, ("a", 8): 8.0, ("b", 8): 8.0}
    assert fastest(["a", "b"], lambda kind, rows: (times | {("a", 64): 190.0, ("b", 64): 100.0})[kind, rows]) == "a"
    assert fastest(["a", "b"], lambda kind, rows: (times | {("a", 64): 210.0, ("b", 64): 100.0})[kind, rows]) == "b"


def test_memory_goes_before_speed() -> None:
    def time_of(kind: str, rows: int) -> float:
        raise AssertionError("nothing is to be measured")

    assert choose_on_cpu(CONFIG, 1000, 2500, None, time_of=time_of, has_packed=False) == BF16


def test_a_checkpoint_in_16_bits_is_measured_at_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCD_HOME", str(tmp_path))
    folder = str(tiny_model("llama", "bfloat16"))

    def load(wish: str) -> str:
        return load_model(LoadOptions(path=folder, device="cpu", dtype=wish), lambda *_: None).info.dtype

    found = load("")
    kept = next(tmp_path.rglob("measured.json"))
    assert ((PACKED if "weights" in found else found) + '"') in kept.read_text()
    kept.unlink()
    assert load("float32") == "float32"
    assert not list(tmp_path.rglob("measured.json")), "nothing is measured where it would not matter"
    assert load("bfloat16") == "bfloat16"
    assert len(list(tmp_path.rglob("measured.json"))) == half_is_supported()
