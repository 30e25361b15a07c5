"""Embeddings: tokenising the inputs, checking their length, shortening the vectors."""

from __future__ import annotations

import math

from daemon.worker.generation import truncate
from daemon.worker.state import Model
from fcd.errors import ApiError, invalid
from fcd.wire.openai import EmbeddingRequest


async def vectors_for(model: Model, asked: EmbeddingRequest, adapter: str = "") -> tuple[list[list[float]], int]:
    """One vector per input, and how many tokens went in.

    Raises:
        ApiError: 400 naming the input that is empty, too long, or holds tokens that the model does not have.
    """
    info = model.engine.info
    if "embeddings" not in info.capabilities:
        raise ApiError(400, "This model makes no embeddings.", code="unsupported_model", param="model")
    inputs = asked.inputs
    specials = True if asked.add_special_tokens is None else asked.add_special_tokens
    ids_of: list[list[int]] = []
    for position, text in enumerate(inputs):
        param = "input" if len(inputs) == 1 else f"input[{position}]"
        ids = await model.prompter.text_ids(text, specials=specials) if isinstance(text, str) else list(text)
        ids = truncate(ids, asked.truncate_prompt_tokens, info, 0)
        if not ids:
            raise invalid(param, f"'{param}' has no tokens.")
        if len(ids) > info.context_length:
            raise ApiError(
                400,
                f"This model's maximum context length is {info.context_length} tokens, and '{param}' has {len(ids)}.",
                code="context_length_exceeded",
                param=param,
            )
        if max(ids) >= info.vocab_size:
            raise invalid(param, f"'{param}' holds token {max(ids)}; this model has {info.vocab_size}.")
        ids_of.append(ids)
    return await model.engine.embed(ids_of, adapter), sum(len(ids) for ids in ids_of)


def shorten(vectors: list[list[float]], dimensions: int) -> list[list[float]]:
    """The first `dimensions` entries, of length one again.

    Raises:
        ApiError: 400, the vectors are shorter than that.
    """
    if any(dimensions > len(vector) for vector in vectors):
        raise invalid("dimensions", f"'dimensions' may be {len(vectors[0])} at most for this model.")
    cut = [vector[:dimensions] for vector in vectors]
    return [[value / (math.sqrt(sum(v * v for v in vector)) or 1.0) for value in vector] for vector in cut]
