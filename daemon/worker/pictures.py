"""Chats and FastChat's prompts with images: rendered with a place for each, and handed to the model's processor."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from daemon.engines.base import ImageInput, ImagePrompt
from daemon.worker.state import Model
from fcd.errors import ApiError, invalid, unsupported
from fcd.wire.openai_chat import Message, images_in
from fcd.wire.openai_images import Detail, ImageCount, blind

FASTCHAT_PLACE = "$$<image>$$"
"""What FastChat's clients write into a prompt where an image stands."""


async def chat_with_images(
    model: Model,
    name: str,
    messages: Sequence[Message],
    kwargs: Mapping[str, Any] | None = None,
    *,
    specials: bool | None = None,
    add_generation_prompt: bool = True,
    tools: Sequence[dict[str, Any]] = (),
) -> tuple[str, ImagePrompt]:
    """A chat's prompt as text, with one place for each image, and as the engine takes it.

    Args:
        name: what the request calls the model.

    Raises:
        ApiError: 400; the model sees none, its template has no place for them, or one cannot be read.
    """
    found = list(images_in(messages))
    check_sees(model, name, found[0][0])
    prompter = model.prompter
    wanted = prompter.specials_by_default if specials is None else specials

    def work() -> tuple[str, list[ImageInput]]:
        text = prompter.render(messages, dict(kwargs or {}), add_generation_prompt=add_generation_prompt, tools=tools)
        _check_places(text.count(prompter.image_mark), len(found), "messages")
        return text, _inputs([(f"{where}.url", image.url, image.detail or "auto") for where, image in found])

    text, inputs = await asyncio.to_thread(work)
    return text, await model.engine.read_images(text, inputs, specials=wanted)


async def prompt_with_images(model: Model, name: str, prompt: str, images: Sequence[str]) -> ImagePrompt:
    """A prompt of FastChat's clients, which has its places already; images are in base64 or `data:` URLs.

    Raises:
        ApiError: 400, see `chat_with_images`.
    """
    check_sees(model, name, "images")
    mark = model.prompter.image_mark
    text = prompt.replace(FASTCHAT_PLACE, mark)
    _check_places(text.count(mark), len(images), "prompt")
    urls = [image if ":" in image[:12] else f"data:image/png;base64,{image}" for image in images]
    inputs = await asyncio.to_thread(_inputs, [(f"images[{at}]", url, "auto") for at, url in enumerate(urls)])
    return await model.engine.read_images(text, inputs, specials=True)


def check_sees(model: Model, name: str, where: str) -> None:
    """Raises ApiError 400, naming the model and what would work: it takes no images."""
    info = model.engine.info
    if "vision" not in info.capabilities:
        raise blind(name, where, info.blind)


def check_uncut(value: Any, param: str) -> None:
    """Raises ApiError 400: a prompt with images cannot be cut, nor its tokens be told one by one."""
    if value is not None:
        raise unsupported(param)


def _inputs(images: Sequence[tuple[str, str, Detail]]) -> list[ImageInput]:
    count = ImageCount()
    return [ImageInput(count.add(url, where), detail, where) for where, url, detail in images]


def _check_places(places: int, images: int, param: str) -> None:
    if places != images:
        raise invalid(
            param,
            f"The prompt has {places} places for images, and {images} came: what marks a place cannot stand in a text.",
        )


def as_images(value: Any) -> tuple[str, ...]:
    """FastChat's `images`: a list of images in base64, or nothing. Raises ApiError 400."""
    if not value:
        return ()
    if not isinstance(value, list) or not all(isinstance(image, str) for image in value):
        raise ApiError(400, "'images' must be a list of images in base64.", param="images")
    return tuple(value)
