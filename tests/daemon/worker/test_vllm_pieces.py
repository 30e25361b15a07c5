"""The pure pieces around vLLM: its log, its failures, its flags, its figures, the families of models."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.dispatch import Target
from daemon.gateway.fields import body_for
from daemon.worker.vllm.arguments import Plan, make_plan, shorter, smaller, without
from daemon.worker.vllm.failures import explain
from daemon.worker.vllm.families import ModelFiles, parsers_for, read_model_files
from daemon.worker.vllm.hardware import Hardware, read_capability
from daemon.worker.vllm.metrics import Figures, Meter, median, read_figures
from daemon.worker.vllm.schema import ROUTES, read_fields, read_routes
from daemon.worker.vllm.stages import new_start, read_line
from fcd.errors import ApiError, ModelLoadError, UsageError
from fcd.machine import Gpu
from fcd.wire.admin import ModelOptions, Progress

GIB = 2**30
H100 = Hardware((Gpu(0, "NVIDIA H100", 80 * GIB, 79 * GIB, "GPU-1"),), 9.0)
LOG = "(EngineCore pid=7) INFO 11-23 04:00:00 [weight_utils.py:5] "


# The log


def test_a_start_is_told_in_stages() -> None:
    start = new_start()
    seen: list[Progress] = []
    for line in (
        "(APIServer pid=1) INFO 11-23 04:00:00 [utils.py:9] vLLM API server version 0.25.1, serving model x",
        LOG + "Starting to load model /models/x...",
        "Loading safetensors checkpoint shards:   0% Completed | 0/2 [00:00<?, ?it/s]",
        "(EngineCore pid=7) Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:00<00:00,  2.54it/s]",
        LOG + "Loading weights took 0.92 seconds",
        LOG + "Model loading took 13.5 GiB memory and 1.523431 seconds",
        LOG + "Using cache directory: /root/.cache/vllm/x for vLLM's torch.compile",
        LOG + "torch.compile took 33.01 s in total",
        LOG + "Available KV cache memory: 50.25 GiB",
        LOG + "GPU KV cache size: 411,616 tokens",
        "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  40%|████      | 20/51 [00:01<00:02, 17.55it/s]",
        LOG + "Graph capturing finished in 5 secs, took 0.50 GiB",
        "(APIServer pid=1) INFO:     Application startup complete.",
    ):
        if read_line(start, line):
            seen.append(start.stage)
    assert [each.stage for each in seen] == [
        *("loading weights", "loading weights", "loading weights", "measuring memory", "compiling"),
        *("measuring memory", "making the KV cache", "making the KV cache", "capturing CUDA graphs"),
        "starting its server",
    ]
    assert [(each.done, each.total) for each in seen if each.total] == [(0, 2), (1, 2), (20, 51)]
    assert (start.version, start.kv_tokens) == ("0.25.1", 411_616)
    assert start.memory_bytes == pytest.approx((13.5 + 50.25 + 0.5) * GIB)


@given(st.text())
def test_any_line_may_stand_in_a_log(text: str) -> None:
    read_line(new_start(), text)
    assert explain([text], "exit code 1").cause


# Failures

KV = (
    LOG
    + "ValueError: To serve at least one request with the model's max seq len (131072), (16.0 GiB KV cache is needed, "
    "which is larger than the available KV cache memory (4.1 GiB). Based on the available memory, the estimated "
    "maximum model length is 33584. Try increasing `gpu_memory_utilization`"
)


@pytest.mark.parametrize(
    ("line", "cause", "hint", "remedy"),
    [
        (KV, "33584 tokens fit", "--max-model-len 33584", "shorter"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried", "out of memory", "--max-model-len", "less"),
        ("ValueError: No available memory for the cache blocks. Try", "out of memory", "--gpu-memory-utilization", ""),
        ("OSError: [Errno 98] Address already in use", "port", "ss -ltnp", "other_port"),
        ("RuntimeError: Failed to load the tokenizer. If the", "tokenizer", "--tokenizer", ""),
        ("RuntimeError: The NVIDIA driver on your system is too old (found", "driver is too old", "Update", ""),
        ("ImportError: libcudart.so.13: cannot open shared object file:", "libcudart.so.13", "fcd engine install", ""),
        ("ModuleNotFoundError: No module named 'triton'", "'triton'", "fcd engine install", ""),
        ("ValueError: Model architectures ['Odd'] are not supported for now.", "['Odd']", "transformers", ""),
        ("OSError: You are trying to access a gated repo.", "asked for it", "HF_TOKEN", ""),
        ("vllm: error: unrecognized arguments: --nope", "--nope", "vllm serve --help", ""),
        ("KeyError: 'invalid tool call parser: nope (chose from { a })'", "'nope'", "--", ""),
    ],
)
def test_failures_name_their_cause_and_the_next_step(line: str, cause: str, hint: str, remedy: str) -> None:
    noise = [f"(APIServer pid=1)   File x, line {number}" for number in range(50)]
    end = "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above."
    found = explain(["(EngineCore pid=3) INFO starting", line, *noise, end], "exit code 1")
    assert cause in found.cause
    assert hint in found.hint
    assert found.remedy == remedy
    assert "\n" not in found.cause


def test_a_share_that_is_not_free_is_told_in_full() -> None:
    found = explain(
        [
            "ValueError: Free memory on device cuda:0 (20.5/79.6 GiB) on startup is less than desired GPU memory "
            "utilization (0.9, 71.64 GiB). Decrease GPU memory utilization or reduce GPU memory used by others."
        ],
        "exit code 1",
    )
    assert "71.64 GiB" in found.cause
    assert (found.remedy, found.amount) == ("less", 20.5)


def test_an_unknown_failure_shows_its_last_error() -> None:
    found = explain(["(EngineCore pid=3) ERROR 11-23 04:00:00 [x.py:1] ValueError: something odd"], "exit code 1")
    assert found.cause == "vLLM ended with exit code 1: ValueError: something odd."
    assert explain([], "signal 9").cause == "vLLM ended with signal 9."


# Flags


def plan(machine: Hardware = H100, files: ModelFiles | None = None, **options: Any) -> Plan:
    return make_plan(
        ModelOptions(**options), files or ModelFiles(), machine, folder=Path("/m"), names=["m", "other"], concurrency=0
    )


def argv(found: Plan) -> str:
    return " ".join(found.argv(("vllm",), "/run/x.sock"))


def test_flags_become_vllms() -> None:
    found = argv(plan(num_gpus=2, tokenizer="t", dtype="bfloat16", max_model_len=512, trust_remote_code=True))
    assert found.startswith("vllm serve /m --served-model-name m other --uds /run/x.sock ")
    for words in ("--tensor-parallel-size 2", "--tokenizer t", "--dtype bfloat16", "--max-model-len 512"):
        assert words in found
    assert "--trust-remote-code" in found
    assert "--enable-sleep-mode" in found
    assert "--trust-remote-code" not in argv(plan())
    assert "--enable-sleep-mode" not in argv(plan(Hardware()))
    assert argv(plan(engine_args=["--enforce-eager", "--dtype", "half"])).endswith("--enforce-eager --dtype half")


def test_an_amount_of_memory_becomes_a_share_and_is_said() -> None:
    found = plan(max_gpu_memory="8GiB")
    assert found.utilization == 0.1
    assert "8GiB of 80.0 GiB is --gpu-memory-utilization 0.1" in found.notes[0]
    assert plan(max_gpu_memory="8GiB", gpu_memory_utilization=0.25).utilization == 0.25
    assert plan(max_gpu_memory="500GiB").utilization == 0.98
    with pytest.raises(ModelLoadError, match="needs a GPU"):
        plan(Hardware(), max_gpu_memory="8GiB")


@pytest.mark.parametrize(
    ("bits", "capability", "method", "said"),
    [("8bit", 9.0, "fp8", "activations"), ("8bit", 8.0, "fp8", "weights only"), ("4bit", 8.0, "bitsandbytes", "NF4")],
)
def test_fewer_bits_are_what_the_gpu_can_do(bits: str, capability: float, method: str, said: str) -> None:
    found = plan(H100._replace(capability=capability), quantization=bits)
    assert f"--quantization {method}" in argv(found)
    assert (found.quantization, said in found.notes[0]) == (method, True)
    assert "--quantization awq" in argv(plan(quantization=bits, quantize_with="awq"))
    quantized = plan(files=ModelFiles(quantized="gptq"), quantization=bits)
    assert "--quantization" not in argv(quantized)
    assert "quantized already" in quantized.notes[0]


def test_an_old_gpu_is_told_so() -> None:
    with pytest.raises(ModelLoadError, match=r"compute capability 7\.5"):
        plan(H100._replace(capability=7.0), quantization="8bit")


@pytest.mark.parametrize("word", ["--uds", "--api-key=x", "--served-model-name", "--served_model_name"])
def test_how_fcd_reaches_it_is_not_the_users(word: str) -> None:
    with pytest.raises(UsageError, match="set by fcd"):
        plan(engine_args=[word, "x"])


def test_adapters_bring_their_rank(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 12, "rank_pattern": {"q": 40}}')
    found = plan(lora_modules={"pirate": str(tmp_path)})
    assert "--enable-lora --max-loras 1 --max-lora-rank 64 --lora-modules" in argv(found)
    assert json.loads(found.flags[-1]) == {"name": "pirate", "path": str(tmp_path)}
    with pytest.raises(ModelLoadError, match="no LoRA adapter"):
        plan(lora_modules={"none": str(tmp_path / "none")})


def test_another_try_is_shorter_or_smaller_and_says_so() -> None:
    assert shorter(plan(), 33_590).max_model_len == 33_584
    assert "33584 tokens instead of the model's own" in shorter(plan(), 33_590).notes[-1]
    less = smaller(plan(engine_args=["--gpu-memory-utilization=0.8", "--seed", "1"]), 0.0, H100)
    assert less is not None
    assert (less.utilization, less.passed_on) == (0.72, ("--seed", "1"))
    half = smaller(plan(), 40.0, H100)
    assert half is not None
    assert half.utilization == pytest.approx(0.485)
    assert smaller(plan(), 1.0, H100) is None
    assert without(("--a", "1", "--b", "--a=2", "c"), "--a") == ("--b", "c")


def test_the_users_own_parsers_win() -> None:
    files = ModelFiles("qwen3", template="tools <tool_call> enable_thinking", tokens=frozenset({"<think>", "</think>"}))
    found = argv(plan(files=files))
    assert "--enable-auto-tool-choice --tool-call-parser hermes --reasoning-parser qwen3" in found
    mine = argv(plan(files=files, engine_args=["--tool-call-parser", "x", "--reasoning-parser=y"]))
    assert "hermes" not in mine
    assert "qwen3" not in mine


# Families


@pytest.mark.parametrize(
    ("kind", "template", "tokens", "tools", "reasoning"),
    [
        ("llama", 'tools "parameters" <|python_tag|>', (), "llama3_json", ""),
        ("qwen2", "tools <tool_call>", (), "hermes", ""),
        ("qwen3", "tools <tool_call> enable_thinking </think>", ("<think>", "</think>"), "hermes", "qwen3"),
        ("qwen3_moe", "tools <tool_call> <function=", (), "qwen3_coder", ""),
        ("mistral", "tools [TOOL_CALLS]", ("[TOOL_CALLS]",), "mistral", ""),
        ("gpt_oss", "tools <|channel|>", (), "openai", "openai_gptoss"),
        ("deepseek_v3", "tools <｜tool▁calls▁begin｜> <think>", ("<think>", "</think>"), "deepseek_v3", "deepseek_r1"),
        ("glm4_moe", "tools <tool_call> <arg_key> </think>", (), "glm45", "glm45"),
        ("llama", "{{ messages }}", (), "", ""),
        ("", "", (), "", ""),
    ],
)
def test_families_are_told_from_the_models_files(
    kind: str, template: str, tokens: Sequence[str], tools: str, reasoning: str
) -> None:
    found = parsers_for(ModelFiles(kind, template=template, tokens=frozenset(tokens)))
    assert (found.tools, found.reasoning) == (tools, reasoning)


def test_a_models_files_are_read_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "x", "architectures": ["A"], "quantization_config": {}}')
    (tmp_path / "tokenizer_config.json").write_text(
        '{"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}],'
        '"added_tokens_decoder": {"1": {"content": "<think>"}}}'
    )
    (tmp_path / "tokenizer.json").write_text("broken")
    found = read_model_files(tmp_path)
    assert (found.model_type, found.architecture, found.template, found.tokens) == (
        "x",
        "A",
        "t",
        frozenset({"<think>"}),
    )
    (tmp_path / "chat_template.jinja").write_text("j")
    assert read_model_files(tmp_path).template == "j"
    assert read_model_files(tmp_path / "none") == ModelFiles()


# Figures

METRICS = """# HELP vllm:num_requests_running Number
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="x"} 3.0
vllm:num_requests_running{engine="1",model_name="x"} 2.0
vllm:num_requests_waiting{engine="0",model_name="x"} 7.0
vllm:kv_cache_usage_perc{engine="0",model_name="x"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="x"} 0.5
vllm:generation_tokens_total{engine="0",model_name="x"} 1200.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1",model_name="x"} 2.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.3",model_name="x"} 8.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="x"} 10.0
vllm:broken{ nan
process_open_fds 9
"""


def test_figures_are_summed_over_engines() -> None:
    found = read_figures(METRICS)
    assert (found.running, found.waiting, found.kv_used, found.generated_tokens) == (5, 7, 0.5, 1200)
    assert found.busy
    assert median(found.first_tokens) == pytest.approx(0.2)
    assert read_figures("") == Figures()
    assert median({math.inf: 3.0}) == 0.0


def test_a_meter_counts_tokens_a_second() -> None:
    meter = Meter()
    assert meter.stats(Figures(generated_tokens=100), 0.0, memory_bytes=5).tokens_per_second == 0
    stats = meter.stats(Figures(running=1, generated_tokens=300), 2.0, memory_bytes=5)
    assert (stats.tokens_per_second, stats.running, stats.memory_bytes) == (100.0, 1, 5)
    for second in range(3, 30):
        stats = meter.stats(Figures(generated_tokens=300), float(second), memory_bytes=5)
    assert stats.tokens_per_second == 0


def test_fields_are_read_from_its_own_description() -> None:
    document = {
        "paths": {
            "/v1/embeddings": _reads("#/components/schemas/Any"),
            "/v1/completions": _reads("#/components/schemas/A"),
        },
        "components": {
            "schemas": {
                "Any": {"anyOf": [{"$ref": "#/components/schemas/A"}, {"properties": {"input": {}}}]},
                "A": {"properties": {"prompt": {}, "model": {}}},
            }
        },
    }
    assert read_fields(json.dumps(document).encode()) == {
        "/v1/completions": ["model", "prompt"],
        "/v1/embeddings": ["input", "model", "prompt"],
    }
    assert read_routes(json.dumps(document).encode()) == ["/v1/completions", "/v1/embeddings"]


@pytest.mark.parametrize("document", [b"", b"[]", b"null", b"{}", b'{"paths": []}', b'{"paths": {}}', b"\xff", b"{"])
def test_a_server_that_describes_nothing_is_held_to_what_is_known(document: bytes) -> None:
    fields = read_fields(document)
    assert tuple(fields) == ROUTES
    assert "messages" in fields["/v1/chat/completions"]
    assert "dimensions" in fields["/v1/embeddings"]
    assert "return_token_strs" in fields["/tokenize"]
    assert fields["/detokenize"] == ["model", "tokens"]
    # Whether it makes embeddings, nobody knows.
    assert read_routes(document) == ["/v1/chat/completions", "/v1/completions"]


@pytest.mark.parametrize("route", ["/tokenize", "/v1/embeddings", "/v1/completions"])
@pytest.mark.parametrize(
    "said", [None, {}, {"post": {}}, {"post": {"requestBody": {"content": {"application/json": {"schema": {}}}}}}]
)
def test_a_route_without_fields_in_the_description_is_held_to_what_is_known(route: str, said: Any) -> None:
    document = {
        "paths": {"/detokenize": _reads("#/components/schemas/A"), route: said},
        "components": {"schemas": {"A": {"properties": {"tokens": {}, "other": {}}}}},
    }
    fields = read_fields(json.dumps(document).encode())
    assert set(fields) == {"/detokenize", route}
    assert fields["/detokenize"] == ["other", "tokens"]
    assert fields[route] == read_fields(b"")[route]
    target = Target("vllm", fields=fields)
    with pytest.raises(ApiError) as refused:
        body_for(target, route, "m", b'{"model": "m", "made_up": 1}')
    assert (refused.value.status, refused.value.param) == (400, "made_up")


def _reads(reference: str) -> dict[str, Any]:
    return {"post": {"requestBody": {"content": {"application/json": {"schema": {"$ref": reference}}}}}}


def test_the_lowest_capability_counts() -> None:
    assert read_capability("GPU-1, 9.0\nGPU-2, 8.6\nGPU-3, [N/A]\nnoise", ["GPU-1", "GPU-2", "GPU-3"]) == 8.6
    assert read_capability("", ["GPU-1"]) == 0


@pytest.mark.parametrize(
    ("config", "words", "sees"),
    [
        ({}, [], False),
        ({"vision_config": {"depth": 2}}, [], True),
        ({"thinker_config": {"vision_config": {"depth": 2}}}, [], True),
        ({"vision_config": None, "audio_config": {"a": 1}}, [], False),
        ({"vision_config": {"depth": 2}}, ["--language-model-only"], False),
        ({"vision_config": {"depth": 2}}, ["--limit-mm-per-prompt", '{"image": 0}'], False),
        ({"vision_config": {"depth": 2}}, ["--limit-mm-per-prompt", '{"image": 4, "video": 0}'], True),
        ({"vision_config": {"depth": 2}}, ["--limit-mm-per-prompt.image=0"], False),
    ],
)
def test_whether_it_sees_is_told_from_its_configuration_and_its_flags(
    tmp_path: Path, config: dict[str, Any], words: list[str], sees: bool
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    files = read_model_files(tmp_path)
    plan = make_plan(ModelOptions(engine_args=words), files, Hardware(), folder=tmp_path, names=["m"])
    assert plan.sees is sees
