"""What vLLM is given: how many GPUs, which share of each."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.controller.sizes import needs_of
from daemon.controller.vllm_sizes import OVERHEAD_BYTES, parallel_of, share_of_words, splits
from daemon.scheduler.placement import plan
from daemon.supervisor.launch import LaunchSpec, Place, placed, share_of, worker_command
from fcd.catalog import ModelFacts, Reference
from fcd.settings import WorkerSettings
from fcd.wire.admin import ModelOptions

G = 2**30


def model(folder: Path, gib: float, **config: int) -> Reference:
    """A folder whose headers say that so much is there."""
    folder.mkdir()
    size = int(gib * G)
    header = json.dumps({"w": {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]}}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)
    facts = {"num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096, "num_hidden_layers": 32}
    text = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(text | facts | {"max_position_embeddings": 32768} | config))
    return Reference(name="m", kind="folder", path=folder)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "sizes"),
    [
        (32, 8, (1, 2, 4, 8, 16, 32)),
        (28, 4, (1, 2, 4, 28)),
        (12, 0, (1, 2, 4, 3, 6, 12)),
        (14, 2, (1, 2, 14)),
        (0, 0, ()),
    ],
)
def test_tensor_parallel_sizes_divide_the_heads(heads: int, kv_heads: int, sizes: tuple[int, ...]) -> None:
    assert splits(ModelFacts(attention_heads=heads, kv_heads=kv_heads)) == sizes


def test_a_model_takes_its_weights_and_a_cache_and_is_cut_only_when_it_must(tmp_path: Path) -> None:
    reference = model(tmp_path / "m", 14)
    options = ModelOptions(engine="vllm")
    needs = needs_of(reference, options, WorkerSettings(), has_gpu=True)
    token = 2 * 32 * 8 * 128 * 2
    assert needs.gpu == 14 * G + OVERHEAD_BYTES + int(14 * G * 0.05) + 8192 * token
    assert needs.wish - needs.gpu == (65536 - 8192) * token
    assert (needs.allow_cpu, needs.rest, needs.kv) == (False, 14 * G, 0)
    one = plan(needs, {"cpu": G, "GPU-a": 80 * G, "GPU-b": 80 * G})
    assert one == {"GPU-a": needs.wish}
    two = plan(needs, {"cpu": G, "GPU-a": 12 * G, "GPU-b": 12 * G})
    assert two is not None
    assert len(two) == 2
    assert two["GPU-a"] == two["GPU-b"] <= 12 * G
    assert plan(needs, {"cpu": 500 * G, "GPU-a": 12 * G}) is None, "vLLM's packages run on GPUs"


def test_a_share_that_was_asked_for_is_taken_as_it_is(tmp_path: Path) -> None:
    reference = model(tmp_path / "m", 14)
    totals = {"GPU-a": 80 * G, "GPU-b": 80 * G}
    for options in (
        ModelOptions(engine="vllm", gpu_memory_utilization=0.5),
        ModelOptions(engine="vllm", engine_args=["--gpu_memory_utilization=0.5"]),
    ):
        needs = needs_of(reference, options, WorkerSettings(), has_gpu=True, totals=totals)
        assert plan(needs, {"cpu": G, **totals}) == {"GPU-a": 40 * G}
        assert plan(needs, {"cpu": G, "GPU-a": 39 * G, "GPU-b": 39 * G}) is None
    small = ModelOptions(engine="vllm", gpu_memory_utilization=0.125)
    claims = plan(needs_of(reference, small, WorkerSettings(), has_gpu=True, totals=totals), {"cpu": G, **totals})
    assert claims is not None
    assert len(claims) == 2, "two tenths of two GPUs hold what one does not"
    both = ModelOptions(engine="vllm", num_gpus=2)
    assert len(plan(needs_of(reference, both, WorkerSettings(), has_gpu=True), totals) or {}) == 2


def test_the_users_own_words_win() -> None:
    place = Place(("GPU-a", "GPU-b"), share=0.3)
    told = placed(ModelOptions(engine="vllm"), place)
    assert (told.gpu_memory_utilization, told.num_gpus) == (0.3, 2)
    assert placed(ModelOptions(engine="vllm", gpu_memory_utilization=0.7), place).gpu_memory_utilization == 0.7
    words = ["--gpu-memory-utilization", "0.6", "-tp", "2"]
    told = placed(ModelOptions(engine="vllm", engine_args=words), place)
    assert (told.gpu_memory_utilization, told.num_gpus) == (0.0, 0)
    assert placed(ModelOptions(), Place(("GPU-a",), share=0.3)).gpu_memory_utilization == 0
    assert parallel_of(["--tensor-parallel-size=4", "--pipeline-parallel-size", "2"]) == 8
    assert parallel_of(["--enforce-eager"]) == 0
    assert share_of_words(["--gpu-memory-utilization", "lots"]) == 0


def test_the_kv_budget_reaches_our_own_engine_only() -> None:
    def flags(options: ModelOptions) -> list[str]:
        return worker_command(LaunchSpec("m", "m", options=options), "m", controller="c", socket="", place=place)

    place = Place(kv_bytes=123)
    assert flags(ModelOptions())[flags(ModelOptions()).index("--kv-bytes") + 1] == "123"
    assert "--kv-bytes" not in flags(ModelOptions(engine="vllm"))


SIZES = st.integers(1, 80)


@settings(deadline=None)
@given(st.lists(st.tuples(SIZES, SIZES, SIZES), min_size=1, max_size=4))
def test_a_share_is_never_more_than_is_free(cards: list[tuple[int, int, int]]) -> None:
    totals = {f"GPU-{number}": max(each) * G for number, each in enumerate(cards)}
    free = {f"GPU-{number}": sorted(each)[1] * G for number, each in enumerate(cards)}
    claims = {f"GPU-{number}": min(each) * G for number, each in enumerate(cards)}
    share = share_of(claims, totals, free)
    assert 0 <= share <= 0.98
    assert all(share * totals[device] <= free[device] + 1 for device in claims)
    if len(cards) == 1:
        assert share >= min(0.98, claims["GPU-0"] / totals["GPU-0"]) - 0.001


def test_a_share_of_what_nobody_knows_is_left_to_vllm() -> None:
    assert share_of({"GPU-a": G}, {}, {}) == 0
    assert share_of({}, {"GPU-a": G}, {}) == 0
