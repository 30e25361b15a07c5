"""OpenAI's requests and answers, as fcd reads and writes them. The parts live in the modules beside this one."""

from __future__ import annotations

from fcd.wire.openai_chat import ChatRequest, Message, parse_chat
from fcd.wire.openai_completions import CompletionRequest, Prompt, parse_completion
from fcd.wire.openai_other import (
    DetokenizeAnswer,
    DetokenizeRequest,
    EmbeddingRequest,
    TokenizeAnswer,
    TokenizeRequest,
    parse_detokenize,
    parse_embedding,
    parse_tokenize,
)
from fcd.wire.openai_sampling import SamplingFields

__all__ = [
    "ChatRequest",
    "CompletionRequest",
    "DetokenizeAnswer",
    "DetokenizeRequest",
    "EmbeddingRequest",
    "Message",
    "Prompt",
    "SamplingFields",
    "TokenizeAnswer",
    "TokenizeRequest",
    "parse_chat",
    "parse_completion",
    "parse_detokenize",
    "parse_embedding",
    "parse_tokenize",
]
