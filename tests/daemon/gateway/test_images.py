"""Images on their way to workers: those of servers that check nothing are checked before a byte is passed on."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from msgspec.structs import replace

from daemon.controller.registry import images_of
from daemon.dispatch import Target
from daemon.gateway.images import check_images
from fcd.errors import ApiError
from fcd.wire.controller import FcdExtension
from tests.daemon.gateway.fake_fastchat import FakeFastChat, always, as_fastchat, frame
from tests.daemon.harness import CHAT, answer, asks, daemon, error_of, run, worker
from tests.image_files import bomb, data_url, image_part, picture, png, shows

SEES = Target("w", images="takes")
BLIND = Target("w", images="refuses")
WHERE = "messages[0].content[1].image_url"


def check(target: Target, body: Any, path: str = CHAT) -> None:
    data = body if isinstance(body, bytes) else json.dumps({"model": "m", "messages": body}).encode()
    asyncio.run(check_images(target, path, "m", data))


def refused(target: Target, body: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        check(target, body)
    assert caught.value.status == 400
    return caught.value


def test_images_go_to_those_that_see() -> None:
    check(SEES, shows("x", image_part(), image_part(picture("JPEG"), detail="high")))
    check(SEES, shows("x", {"type": "image_url", "image_url": data_url(png())}))
    check(SEES, [{"role": "user", "content": "an image_url of words"}])
    check(Target("w"), shows("x", {"type": "image_url", "image_url": {"url": "https://x/y"}}))


def test_a_model_that_sees_none_is_named_with_what_would_work() -> None:
    error = refused(BLIND, shows())
    assert (error.param, error.code) == (WHERE, "unsupported_content_part")
    assert "'m' cannot see images" in error.message
    assert "'vision'" in error.message


@pytest.mark.parametrize("target", [SEES, BLIND])
@pytest.mark.parametrize(
    "part",
    [
        {"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}},
        {"type": "audio_url", "audio_url": "http://169.254.169.254/latest"},
    ],
)
def test_no_worker_is_sent_to_an_address(target: Target, part: Any) -> None:
    assert "nothing is fetched" in refused(target, shows("x", part)).message


@pytest.mark.parametrize(
    ("image", "param"),
    [
        ({"url": "https://example.com/a.png"}, f"{WHERE}.url"),
        ("http://example.com/a.png", WHERE),
        ({"url": 3}, f"{WHERE}.url"),
        ({"url": data_url(bomb())}, f"{WHERE}.url"),
        ({"url": data_url(png()), "detail": "low"}, f"{WHERE}.detail"),
        ({"url": data_url(png()), "more": 1}, f"{WHERE}.more"),
    ],
)
def test_what_the_worker_would_fetch_or_pass_over_is_refused(image: Any, param: str) -> None:
    assert refused(SEES, shows("x", {"type": "image_url", "image_url": image})).param == param


def test_escapes_hide_nothing() -> None:
    hidden = json.dumps({"model": "m", "messages": shows("x", {"type": "image_url", "image_url": "http://x"})})
    body = hidden.replace('"image_url"', '"\\u0069mage\\u005furl"').encode()
    assert b"image_url" not in body
    assert refused(SEES, body).param == WHERE


def test_nothing_else_is_read() -> None:
    check(BLIND, b'{"input": "image_url"}', "/v1/embeddings")
    check(BLIND, b"[]")
    check(BLIND, b'{"messages": [{"content": [3, {"image_url": null}]}, 4], "x": "image"}')


@pytest.mark.parametrize(
    ("said", "multimodal", "images"),
    [
        (None, False, "refuses"),
        (None, True, "takes"),
        (FcdExtension(), False, "checks"),
        (FcdExtension(engine="daemon"), False, "checks"),
        (FcdExtension(engine="vllm"), False, "refuses"),
        (FcdExtension(engine="vllm", capabilities=["chat", "vision"]), False, "takes"),
        (FcdExtension(engine="attached", capabilities=["vision"]), False, "takes"),
        (FcdExtension(engine="fastchat", dialect="fastchat"), True, "takes"),
    ],
)
def test_who_checks_follows_from_what_a_worker_is(said: FcdExtension | None, multimodal: bool, images: str) -> None:
    assert images_of(said, multimodal=multimodal) == images


def test_bytes_pass_as_they_are() -> None:
    async def main() -> None:
        async with worker(answer(b'{"ok": true}')) as scripted:
            async with daemon(replace(scripted.target, images="takes")) as fcd:
                body = json.dumps(asks(messages=shows("x", image_part(picture("PNG", 300, 300))))).encode()
                got = await fcd.http.post(CHAT, content=body, headers={"Content-Type": "application/json"})
                assert got.status_code == 200, got.text
                assert scripted.received[0].body == body
            async with daemon(replace(scripted.target, images="refuses")) as fcd:
                got = await fcd.http.post(CHAT, json=asks(messages=shows()))
                assert (got.status_code, error_of(got)["param"]) == (400, WHERE)
                got = await fcd.http.post(
                    "/v1/responses",
                    json={
                        "model": "m",
                        "input": [
                            {"role": "user", "content": [{"type": "input_image", "image_url": data_url(png())}]},
                        ],
                    },
                )
                assert (got.status_code, error_of(got)["param"]) == (400, "input")
                assert "cannot see images" in error_of(got)["message"]
                assert len(scripted.received) == 1

    run(main())


def test_fastchats_workers_get_theirs_beside_the_prompt() -> None:
    fake = FakeFastChat(always(frame("A cat", "stop")))

    async def main() -> None:
        async with worker(fake) as scripted:
            target = as_fastchat(scripted.target)
            async with daemon(replace(target, images="takes")) as fcd:
                got = await fcd.http.post(CHAT, json=asks(messages=shows("Hi", image_part(), image_part())))
                assert got.status_code == 200, got.text
                sent = fake.generations()[0]
                assert sent["prompt"] == "Be short. USER: $$<image>$$$$<image>$$Hi ASSISTANT:"
                assert sent["images"] == [data_url(png()).partition(",")[2]] * 2
                got = await fcd.http.post(CHAT, json=asks(messages=shows("Hi", image_part(detail="low"))))
                assert error_of(got)["param"] == f"{WHERE}.detail"
            async with daemon(replace(target, images="refuses")) as fcd:
                got = await fcd.http.post(CHAT, json=asks(messages=shows()))
                assert (got.status_code, error_of(got)["param"]) == (400, WHERE)
        assert len(fake.generations()) == 1

    run(main())
