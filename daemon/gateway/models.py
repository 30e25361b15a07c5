"""The models that can be asked for, as OpenAI lists them."""

from __future__ import annotations

import difflib
from typing import Any

from daemon.context import DaemonContext
from fcd.errors import ApiError, model_not_found
from fcd.wire.admin import ModelInfo


def model_card(model: ModelInfo, created: int) -> dict[str, Any]:
    """OpenAI's model object, with our `state` (`ready`, `loading`, `available`...) and `capabilities`, and vLLM's
    `max_model_len`."""
    card: dict[str, Any] = {
        "id": model.name,
        "object": "model",
        "created": created,
        "owned_by": "fcd",
        "state": model.state,
    }
    if model.parent:
        card["parent"] = model.parent
    if model.context_length:
        card["max_model_len"] = model.context_length
    if model.capabilities:
        card["capabilities"] = model.capabilities
    return card


def model_list(context: DaemonContext) -> dict[str, Any]:
    created = int(context.started_at)
    return {"object": "list", "data": [model_card(model, created) for model in context.controller.models()]}


def find_model(context: DaemonContext, name: str) -> dict[str, Any]:
    """Raises ApiError: 404, with near names."""
    models = {model.name: model for model in context.controller.models()}
    if name not in models:
        raise model_not_found(name[:200], difflib.get_close_matches(name[:200], list(models), n=2))
    return model_card(models[name], int(context.started_at))


def only_ready_model(context: DaemonContext) -> str:
    """The one model that runs, for the tokenizer routes, whose clients may name none.

    Raises:
        ApiError: 400; none runs, or several.
    """
    ready = [model.name for model in context.controller.models() if model.state == "ready" and not model.parent]
    if len(ready) == 1:
        return ready[0]
    why = "several models run" if ready else "no model runs"
    raise ApiError(400, f"'model' is missing, and {why}: name the model to use.", param="model")
