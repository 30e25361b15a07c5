"""Which of vLLM's parsers read a model's tool calls and thinking: told from its files, never from its name. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

_EYES: Final = ("vision_config", "vision_cfg", "visual", "img_processor", "vq_config", "vision_encoder")
_MOST_BYTES = 32 * 1024 * 1024


class ModelFiles(msgspec.Struct, frozen=True):
    """What is looked at."""

    model_type: str = ""
    architecture: str = ""
    template: str = ""
    """The source of its chat template; empty: it has none."""
    tokens: frozenset[str] = frozenset()
    """Its added tokens."""
    quantized: str = ""
    """How its weights are quantized in the files already."""
    max_length: int = 0
    vision: bool = False
    """It has a part that sees images."""


class Parsers(msgspec.Struct, frozen=True):
    tools: str = ""
    reasoning: str = ""


def read_model_files(folder: Path) -> ModelFiles:
    """From config.json and the tokenizer's files; what is missing or broken there counts as not said."""
    config = _json(folder / "config.json")
    tokenizer = _json(folder / "tokenizer_config.json")
    text = config.get("text_config")
    inner = text if isinstance(text, dict) else config
    architectures = config.get("architectures")
    quantization = config.get("quantization_config") or inner.get("quantization_config")
    length = inner.get("max_position_embeddings")
    return ModelFiles(
        model_type=str(config.get("model_type") or ""),
        architecture=str(architectures[0]) if isinstance(architectures, list) and architectures else "",
        template=_template(folder, tokenizer),
        tokens=frozenset(_tokens(tokenizer, _json(folder / "tokenizer.json"))),
        quantized=str(quantization.get("quant_method") or "yes") if isinstance(quantization, dict) else "",
        max_length=length if type(length) is int else 0,
        vision=_has_eyes(config),
    )


def _has_eyes(config: Mapping[str, Any]) -> bool:
    """Whether a configuration describes a vision tower, under the names that families have for it."""
    inner = config.get("thinker_config")
    parts = [config, inner] if isinstance(inner, dict) else [config]
    return any(isinstance(part.get(name), dict) and part[name] for part in parts for name in _EYES)


def parsers_for(model: ModelFiles) -> Parsers:
    """vLLM's parsers for a model; empty where it has no tools, does not think, or is not known."""
    return Parsers(
        tools=next((name for name, fits in _TOOLS if model.template and _tells_of_tools(model) and fits(model)), ""),
        reasoning=next((name for name, fits in _REASONING if fits(model)), ""),
    )


def _tells_of_tools(model: ModelFiles) -> bool:
    return re.search(r"\btools\b", model.template) is not None


Fits = Callable[[ModelFiles], bool]


def _kind(*kinds: str) -> Fits:
    return lambda model: model.model_type in kinds


def _says(*marks: str) -> Fits:
    return lambda model: all(mark in model.template for mark in marks)


def _all(*tests: Fits) -> Fits:
    return lambda model: all(test(model) for test in tests)


def _any(*tests: Fits) -> Fits:
    return lambda model: any(test(model) for test in tests)


def _knows(*marks: str) -> Fits:
    """The marks are tokens of the model: several of vLLM's parsers refuse to work without."""
    return lambda model: all(mark in model.tokens for mark in marks)


_DEEPSEEK_CALL = "<｜tool▁calls▁begin｜>"
_TOOLS: Final[tuple[tuple[str, Fits], ...]] = (
    ("openai", _kind("gpt_oss")),
    ("mistral", _all(_says("[TOOL_CALLS]"), _knows("[TOOL_CALLS]"))),
    ("deepseek_v31", _all(_says(_DEEPSEEK_CALL), _says("<｜tool▁sep｜>{"))),
    ("deepseek_v3", _says(_DEEPSEEK_CALL)),
    ("kimi_k2", _says("<|tool_calls_section_begin|>")),
    ("minimax_m2", _says("<minimax:tool_call>")),
    ("seed_oss", _says("<seed:tool_call>")),
    ("glm47", _all(_says("<tool_call>", "<arg_key>"), _kind("glm4_moe_lite", "glm_moe_dsa"))),
    ("glm45", _says("<tool_call>", "<arg_key>")),
    ("qwen3_coder", _says("<tool_call>", "<function=")),
    ("granite4", _all(_kind("granitemoehybrid"), _says("<tool_call>"))),
    ("granite", _kind("granite", "granitemoe")),
    ("gemma4", _all(_kind("gemma4", "gemma4_text"), _says("<|tool_call>"))),
    ("hunyuan_a13b", _all(_kind("hunyuan_v1_moe", "hunyuan_v1_dense"), _says("<tool_calls>"))),
    ("jamba", _all(_kind("jamba"), _says("<tool_calls>"))),
    ("lfm2", _says("<|tool_call_start|>")),
    ("internlm", _says("<|action_start|>", "<|plugin|>")),
    ("phi4_mini_json", _all(_kind("phi3"), _says("functools"))),
    ("llama4_pythonic", _kind("llama4")),
    (
        "llama3_json",
        _all(_kind("llama", "mllama"), _says('"parameters"'), _any(_says("<|python_tag|>"), _knows("<|python_tag|>"))),
    ),
    ("hermes", _says("<tool_call>")),
)
"""In this order: the first that fits."""

_THINKS: Final = _any(_says("</think>"), _knows("<think>", "</think>"))
_REASONING: Final[tuple[tuple[str, Fits], ...]] = (
    ("openai_gptoss", _kind("gpt_oss")),
    ("mistral", _all(_kind("mistral", "mistral3", "ministral3"), _knows("[THINK]", "[/THINK]"))),
    ("seed_oss", _all(_kind("seed_oss"), _knows("<seed:think>"))),
    ("minimax_m2", _all(_kind("minimax_m2"), _THINKS)),
    ("glm45", _all(_kind("glm4_moe", "glm4_moe_lite", "glm_moe_dsa"), _THINKS)),
    ("kimi_k2", _all(_kind("kimi_k2", "kimi_linear"), _THINKS)),
    ("deepseek_v3", _all(_kind("deepseek_v3", "deepseek_v32"), _says("thinking"), _THINKS)),
    ("hunyuan_a13b", _all(_kind("hunyuan_v1_moe", "hunyuan_v1_dense"), _says("<think>"))),
    ("ernie45", _all(_kind("ernie4_5", "ernie4_5_moe"), _THINKS)),
    ("nemotron_v3", _all(_kind("nemotron_h"), _THINKS)),
    ("olmo3", _all(_kind("olmo3"), _THINKS)),
    ("qwen3", _all(_says("enable_thinking"), _knows("<think>", "</think>"))),
    ("granite", _all(_kind("granite"), _says("thinking"))),
    ("deepseek_r1", _all(_says("<think>"), _knows("<think>", "</think>"))),
)


def _json(file: Path) -> Mapping[str, Any]:
    try:
        if file.stat().st_size > _MOST_BYTES:
            return {}
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _template(folder: Path, tokenizer: Mapping[str, Any]) -> str:
    try:
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    except (OSError, ValueError):
        found = tokenizer.get("chat_template") or _json(folder / "chat_template.json").get("chat_template")
    if isinstance(found, list):
        named = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
        found = named.get("tool_use") or named.get("default")
    return found if isinstance(found, str) else ""


def _tokens(config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> list[str]:
    decoder = config.get("added_tokens_decoder")
    listed = list(decoder.values()) if isinstance(decoder, dict) else []
    added = tokenizer.get("added_tokens")
    listed += added if isinstance(added, list) else []
    return [str(each["content"]) for each in listed if isinstance(each, dict) and "content" in each]
