"""fp32 or bf16 on a CPU: by memory, then by measuring once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from daemon.engines.base import LoadOptions
from daemon.engines.transformers.loader import load_model
from daemon.engines.transformers.number_format import choose_on_cpu, ratio
from tests.tiny_models import tiny_model

CONFIG = SimpleNamespace(hidden_size=64, intermediate_size=128)
MANY = 10**12


@pytest.mark.parametrize(("slower", "want"), [(0.5, torch.bfloat16), (1.0, torch.bfloat16), (2.0, torch.float32)])
def test_the_faster_one_is_taken_and_kept(slower: float, want: torch.dtype, tmp_path: Path) -> None:
    asked: list[tuple[torch.dtype, int]] = []

    def time_of(dtype: torch.dtype, rows: int) -> float:
        asked.append((dtype, rows))
        return rows * (slower if dtype == torch.bfloat16 else 1.0)

    cache = tmp_path / "deep" / "measured.json"
    assert choose_on_cpu(CONFIG, 1000, MANY, cache, time_of) == want
    assert asked
    asked.clear()
    assert choose_on_cpu(CONFIG, 1000, MANY, cache, time_of) == want
    assert not asked, "what was measured once is kept"
    cache.write_text("{broken")
    assert choose_on_cpu(CONFIG, 1000, MANY, cache, time_of) == want
    assert asked


def test_every_number_of_rows_counts_alike() -> None:
    times = {(torch.bfloat16, 1): 1.0, (torch.float32, 1): 2.0, (torch.bfloat16, 8): 8.0, (torch.float32, 8): 8.0}
    times |= {(torch.bfloat16, 64): 300.0, (torch.float32, 64): 100.0}
    assert ratio(lambda dtype, rows: times[dtype, rows]) == pytest.approx(1.5 ** (1 / 3))


def test_memory_goes_before_speed() -> None:
    def time_of(dtype: torch.dtype, rows: int) -> float:
        raise AssertionError("nothing is to be measured")

    assert choose_on_cpu(CONFIG, 1000, 2500, None, time_of) == torch.bfloat16


def test_a_checkpoint_in_16_bits_is_measured_at_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCD_HOME", str(tmp_path))
    folder = str(tiny_model("llama", "bfloat16"))
    info = load_model(LoadOptions(path=folder, device="cpu"), lambda *_: None).info
    kept = next(tmp_path.rglob("measured.json"))
    assert info.dtype in kept.read_text()
    kept.unlink()
    for wish in ("float32", "bfloat16"):
        assert load_model(LoadOptions(path=folder, device="cpu", dtype=wish), lambda *_: None).info.dtype == wish
    assert not list(tmp_path.rglob("measured.json")), "nothing is measured where somebody chose"
