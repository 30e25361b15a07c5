"""Prompts with images: places in templates, what a blind model says, and servers that say what they see."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from msgspec.structs import replace

from daemon.engines.base import ImageInput, ImagePrompt
from daemon.worker.child.server import ChildServer
from daemon.worker.prompts import Prompter
from fcd.errors import ApiError
from fcd.templates import get_template
from fcd.wire.openai_chat import parse_chat
from tests.daemon.harness import whole
from tests.daemon.worker.fake import Served, with_worker
from tests.image_files import data_url, image_part, picture, png, shows
from tests.tiny_models import make_tokenizer

PATH = "/v1/chat/completions"
TEXTS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
PARTS = (
    "{% for m in messages %}[{{ m.role }}]{% for p in m.content %}"
    "{% if p['type'] == 'text' %}{{ p['text'] }}{% else %}<img>\n{% endif %}{% endfor %}{% endfor %}"
)
BOTH = (
    "{% for m in messages %}[{{ m.role }}]{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{% if p.type == 'image' %}<|v|><|pad|>{% else %}{{ p.text }}{% endif %}{% endfor %}"
    "{% endif %}{% endfor %}"
)
BLIND_PARTS = (
    "{% for m in messages %}{% for p in m.content %}{% if p['type'] == 'text' %}{{ p['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)


def prompter(template: str) -> Prompter:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return Prompter(tokenizer, None, sees=True)


def rendered(template: str, messages: Any) -> str:
    asked = parse_chat(json.dumps({"model": "m", "messages": messages}).encode())
    return prompter(template).render(asked.messages)


@pytest.mark.parametrize(
    ("template", "mark"), [(TEXTS, ""), (PARTS, "<img>"), (BOTH, "<|v|><|pad|>"), (BLIND_PARTS, "")]
)
def test_where_an_image_goes_is_read_from_the_template(template: str, mark: str) -> None:
    assert prompter(template).image_mark == mark


def test_a_named_template_has_no_place() -> None:
    assert Prompter(make_tokenizer(), get_template("chatml"), sees=True).image_mark == ""


@pytest.mark.parametrize("template", [TEXTS, PARTS, BOTH])
def test_texts_are_said_whatever_form_a_template_wants(template: str) -> None:
    """A template that reads parts says nothing of a plain string."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": parts}]
    assert rendered(template, messages) == "[system]Be kind.[user]a\nb"


def test_images_stand_where_they_were_said() -> None:
    content = [{"type": "text", "text": "a"}, image_part(), {"type": "text", "text": "b"}, image_part()]
    assert rendered(BOTH, [{"role": "user", "content": content}]) == "[user]a<|v|><|pad|>b<|v|><|pad|>"


def test_a_blind_worker_names_the_model_and_the_reason() -> None:
    async def test(served: Served) -> None:
        served.engine.info = replace(served.engine.info, blind="Pillow is not installed here")
        async with served.client() as client:
            answer = await client.post(PATH, json={"model": "fake", "messages": shows()})
            error = answer.json()["error"]
            assert (answer.status_code, error["param"]) == (400, "messages[0].content[1].image_url")
            assert "'fake' cannot see images: Pillow is not installed here" in error["message"]
            counted = await client.post("/tokenize", json={"model": "fake", "messages": shows()})
            assert counted.json()["error"]["param"] == "messages[0].content[1].image_url"
            old = await client.post("/worker_generate", json={"prompt": "x", "images": ["AAAA"]})
            assert "cannot see images" in old.json()["text"]
            assert not served.engine.requests

    with_worker(test)


def test_a_worker_that_sees_hands_its_engine_prompt_and_images(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(served: Served) -> None:
        seen: list[tuple[str, list[ImageInput]]] = []

        async def read_images(text: str, images: list[ImageInput], *, specials: bool) -> ImagePrompt:
            seen.append((text, images))
            return ImagePrompt([ord(char) for char in text] + [7] * 5 * len(images), {"pixels": 1})

        monkeypatch.setattr(served.engine, "read_images", read_images, raising=False)
        served.engine.info = replace(
            served.engine.info, context_length=400, capabilities=("chat", "completions", "vision")
        )
        model = served.worker.ready()
        monkeypatch.setattr(model.prompter, "image_mark", "'type': 'image'")
        async with served.client() as client:
            both = shows("Hi", image_part(detail="low"), image_part(picture("JPEG")))
            answer = await client.post(PATH, json={"model": "fake", "messages": both, "max_tokens": 3})
            assert answer.status_code == 200, answer.text
            text, images = seen[0]
            assert [(image.data, image.detail) for image in images] == [(png(), "low"), (picture("JPEG"), "auto")]
            request = served.engine.requests[0]
            assert request.images is not None
            assert request.images.tensors == {"pixels": 1}
            assert answer.json()["usage"]["prompt_tokens"] == len(text) + 10
            for field, value in (("truncate_prompt_tokens", 5), ("prompt_logprobs", 1)):
                answer = await client.post(PATH, json={"model": "fake", "messages": both, field: value})
                assert answer.json()["error"]["param"] == field
            answer = await client.post(PATH, json={"model": "fake", "messages": shows("'type': 'image'")})
            assert answer.json()["error"]["param"] == "messages"
            old: dict[str, Any] = {"prompt": "x$$<image>$$", "images": [data_url(png())], "max_new_tokens": 500}
            answer = await client.post("/worker_generate", json=old)
            assert answer.json()["error_code"] == 0
            assert seen[-1][0] == "x'type': 'image'"
            answer = await client.post("/worker_generate", json=old | {"prompt": "x" * 400 + "$$<image>$$"})
            assert "maximum context length" in answer.json()["text"]
            answer = await client.post("/worker_generate", json=old | {"prompt": "no place"})
            assert "0 places" in answer.json()["text"]

    with_worker(test)


@pytest.mark.parametrize(
    ("listed", "props", "sees"),
    [
        ({"data": [{"id": "m"}]}, {}, False),
        ({"data": [{"id": "m"}]}, {"modalities": {"vision": True}, "default_generation_settings": {"n_ctx": 9}}, True),
        ({"data": [{"id": "m"}], "models": [{"model": "m", "capabilities": ["completion", "multimodal"]}]}, {}, True),
    ],
)
def test_a_server_that_a_command_starts_says_what_its_model_sees(listed: Any, props: Any, sees: bool) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(whole("200 OK", json.dumps(props if b"/props" in head else listed).encode()))
        await writer.drain()
        writer.close()

    async def main() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
            server = ChildServer(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}")
            await server.look("m")
            assert server.sees is sees
            await server.close()

    asyncio.run(main())


def test_an_image_that_is_an_address_is_no_ones() -> None:
    with pytest.raises(ApiError):
        rendered(BOTH, shows("x", {"type": "image_url", "image_url": {"url": "https://example.com"}}))
