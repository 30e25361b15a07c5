"""Images in requests: what they say of themselves, and that nothing is fetched, too large or passed over."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcd.errors import ApiError
from fcd.images import MAX_IMAGE_BYTES, MAX_IMAGES, image_facts
from fcd.modalities import llama_entry, says_vision
from fcd.wire.openai_chat import images_in, parse_chat
from fcd.wire.openai_images import decode_image
from tests.image_files import bomb, data_url, image_part, picture, png, shows

PLACE = "messages[0].content[1].image_url.url"


def parsed(messages: Any) -> Any:
    return parse_chat(json.dumps({"model": "m", "messages": messages}).encode())


def refused(messages: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parsed(messages)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"exif": b"Exif\0\0" + b"x" * 5000}),
        ("GIF", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": b"Exif\0\0II*\0"}),
    ],
)
def test_sizes_are_read_without_decompressing(kind: str, options: dict[str, Any]) -> None:
    facts = image_facts(picture(kind, 61, 43, **options))
    assert facts == (f"image/{kind.lower()}", 61, 43)


@given(st.sampled_from(["PNG", "JPEG", "GIF", "WEBP"]), st.integers(0, 60), st.binary(max_size=40))
def test_broken_files_are_only_of_no_size(kind: str, cut: int, rest: bytes) -> None:
    facts = image_facts(picture(kind, 8, 8)[:cut] + rest)
    assert facts is None or facts.pixels >= 0


def test_a_text_is_no_image() -> None:
    assert image_facts(b"hello") is None
    assert image_facts(b"") is None


def test_images_are_taken_in_order() -> None:
    other = image_part(picture("JPEG"), detail="low")
    request = parsed([*shows("a", image_part(), other), {"role": "user", "content": "and?"}])
    assert [where for where, _ in images_in(request.messages)] == [
        "messages[0].content[1].image_url",
        "messages[0].content[2].image_url",
    ]
    assert request.first_image == "messages[0].content[1].image_url"
    assert request.messages[0].images[1].detail == "low"
    assert request.messages[0].text == "a"
    assert parsed([{"role": "user", "content": "x"}]).first_image == ""


@pytest.mark.parametrize("url", ["https://example.com/a.png", "http://127.0.0.1/x", "file:///etc/passwd", "FTP://x/y"])
def test_an_address_is_never_fetched(url: str) -> None:
    error = refused(shows("x", {"type": "image_url", "image_url": {"url": url}}))
    assert error.param == PLACE
    assert "nothing is fetched" in error.message


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "data: URL"),
        ("data:text/html;base64,PGI+", "data: URL"),
        ("data:image/png,raw", "data: URL"),
        ("data:image/png;base64,%%%", "base64"),
        (data_url(b"no image at all"), "PNG, JPEG, WebP or GIF"),
        (data_url(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"), "PNG, JPEG, WebP or GIF"),
        (data_url(png()[:18]), "does not tell its size"),
        (data_url(bomb()), "60000 x 60000"),
        (data_url(png() + b"\0" * MAX_IMAGE_BYTES), "too large"),
    ],
)
def test_what_is_no_image_within_bounds_is_refused(url: str, says: str) -> None:
    error = refused(shows("x", {"type": "image_url", "image_url": {"url": url}}))
    assert error.param == PLACE
    assert says in error.message


def test_their_number_and_their_pixels_together_are_bounded() -> None:
    error = refused(shows("x", *[image_part()] * (MAX_IMAGES + 1)))
    assert error.param == f"messages[0].content[{MAX_IMAGES + 1}].image_url.url"
    large = image_part(bomb(6000, 5000))
    parsed(shows("x", *[large] * 4))
    assert "together" in refused(shows("x", *[large] * 5)).message


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (shows("x", image_part(detail="original")), "messages[0].content[1].image_url.detail"),
        (shows("x", image_part(extra=1)), "messages[0].content[1].image_url.extra"),
        ([{"role": "system", "content": [image_part()]}], "messages[0].content[0].type"),
        ([{"role": "assistant", "content": [image_part()]}], "messages[0].content[0].type"),
        (shows("x", {"type": "image_url", "image_url": None}), "messages[0].content[1].image_url"),
        (shows("x", image_part() | {"type": "text", "text": "y"}), "messages[0].content[1].image_url"),
    ],
)
def test_what_does_not_belong_is_named(messages: Any, param: str) -> None:
    assert refused(messages).param == param


def test_upper_case_is_a_data_url_too() -> None:
    assert decode_image(data_url(png()).replace("data:image/png", "DATA:image/PNG"), "x")[0] == png()


@pytest.mark.parametrize(
    ("model", "props", "sees"),
    [
        ({"id": "a"}, {}, False),
        ({"capabilities": ["completion", "multimodal"]}, {}, True),
        ({"capabilities": ["completion"]}, {"modalities": {"vision": True, "audio": False}}, True),
        ({}, {"modalities": {"vision": False, "audio": True}}, False),
        ({"architecture": {"input_modalities": ["text", "image"]}}, {}, True),
        ({"type": "vlm"}, {}, True),
        ({"capabilities": {"vision": True}}, {}, True),
        ({"capabilities": "vision", "architecture": 3}, {"modalities": None}, False),
    ],
)
def test_servers_say_in_many_ways_what_they_see(model: Any, props: Any, sees: bool) -> None:
    assert says_vision(model, props) is sees


def test_llamas_own_entry_is_found_by_its_name() -> None:
    listing = {"models": [{"name": "a"}, 3, {"model": "b", "capabilities": ["multimodal"]}]}
    assert says_vision(llama_entry(listing, "b"))
    assert llama_entry(listing, "c") == llama_entry({"models": None}, "a") == {}
