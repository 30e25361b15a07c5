"""Models that see: what the engine writes about images is what the model's own `generate` writes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any

import pytest

from daemon.engines.base import Engine, GenerationRequest, ImageInput, ImagePrompt, LoadOptions, SamplingParams
from daemon.engines.transformers import load_engine
from fcd.errors import ApiError
from tests.daemon.engines.harness import Answer, ask, collect, nothing_held, until
from tests.image_files import bomb, picture, png
from tests.tiny_vision import FAMILIES, tiny_vision

GREEDY = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)
WIDE, TALL = picture("PNG", 60, 40), picture("JPEG", 100, 200)


def with_vision(family: str, test: Callable[[Engine], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        engine = await load_engine(LoadOptions(path=str(tiny_vision(family)), **options), lambda *_: None)
        try:
            await test(engine)
            await nothing_held(engine)
        finally:
            await engine.close()

    asyncio.run(main())


def rendered(engine: Engine, text: str, images: int) -> str:
    content = [*[{"type": "image"}] * images, {"type": "text", "text": text}]
    messages = [{"role": "user", "content": content}]
    return str(engine.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


async def see(engine: Engine, text: str, *images: bytes) -> ImagePrompt:
    inputs = [ImageInput(image) for image in images]
    return await engine.read_images(rendered(engine, text, len(images)), inputs, specials=False)


async def answer(engine: Engine, seen: ImagePrompt, **params: Any) -> Answer:
    wanted = SamplingParams(**{"max_tokens": 12, "temperature": 0.0, "ignore_eos": True, **params})
    return (await collect(engine, GenerationRequest("r", seen.ids, wanted, images=seen)))[0]


@cache
def reference(family: str) -> Any:
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(tiny_vision(family)).eval()
    model.generation_config.eos_token_id = None
    return model


def generated(family: str, seen: ImagePrompt, tokens: int = 12) -> list[int]:
    import torch

    ids = torch.tensor([seen.ids])
    out = reference(family).generate(input_ids=ids, **seen.tensors, max_new_tokens=tokens, do_sample=False)
    return [int(token) for token in out[0, len(seen.ids) :]]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_what_generate_gives_alone_and_in_company(family: str) -> None:
    async def test(engine: Engine) -> None:
        assert "vision" in engine.info.capabilities
        seen = [await see(engine, "What is it?", WIDE), await see(engine, "And these?", TALL, WIDE)]
        want = [generated(family, each) for each in seen]
        assert want[0] != want[1]
        assert generated(family, await see(engine, "What is it?", TALL)) != want[0], "it sees nothing"
        alone = [(await answer(engine, each)).ids for each in seen]
        assert alone == want
        # Several at once, beside texts: no state of one is another's.
        words = [engine.tokenizer.encode(text) for text in ("Hello there", "The quick brown fox jumps over")]
        texts = [(await ask(engine, ids, max_tokens=12)).ids for ids in words]
        together = await asyncio.gather(
            *(answer(engine, each) for each in seen * 2), *(ask(engine, ids, max_tokens=12) for ids in words)
        )
        assert [each.ids for each in together] == [*want, *want, *texts]

    with_vision(family, test)


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_alone_are_what_generate_gives(family: str) -> None:
    async def test(engine: Engine) -> None:
        ids = engine.tokenizer.encode("The quick brown fox")
        assert (await ask(engine, ids, max_tokens=12)).ids == generated(family, ImagePrompt(ids, {}))

    with_vision(family, test)


def test_an_image_is_no_cached_prefix_of_another() -> None:
    """Their tokens are equal: only what they show differs."""

    async def test(engine: Engine) -> None:
        one, other = await see(engine, "What is it?", WIDE), await see(engine, "What is it?", TALL)
        assert one.ids == other.ids
        first = await answer(engine, one)
        second = await answer(engine, other)
        as_text = await ask(engine, one.ids, max_tokens=12)
        assert first.ids == generated("llava", one)
        assert second.ids == generated("llava", other)
        assert as_text.ids == generated("llava", ImagePrompt(one.ids, {}))
        assert first.deltas[0].cached_tokens == second.deltas[0].cached_tokens == 0

    with_vision("llava", test)


def test_sampling_stops_and_choices_are_as_without_images() -> None:
    async def test(engine: Engine) -> None:
        seen = await see(engine, "What is it?", WIDE)
        params = SamplingParams(max_tokens=10, temperature=0.9, seed=7, ignore_eos=True, logprobs=2)
        both = await collect(engine, GenerationRequest("r", seen.ids, params, n=2, images=seen))
        again = await collect(engine, GenerationRequest("r", seen.ids, params, n=2, images=seen))
        assert [both[i].ids for i in range(2)] == [again[i].ids for i in range(2)]
        assert both[0].ids != both[1].ids
        assert len(both[0].logprobs) == 10
        greedy = await answer(engine, seen)
        stop = greedy.ids[3]
        stopped = await answer(engine, seen, stop_token_ids=(stop,))
        assert stopped.finish_reason == "stop"
        assert stopped.ids == greedy.ids[: greedy.ids.index(stop) + 1]

    with_vision("smolvlm", test)


def test_a_request_that_is_given_up_frees_what_it_held() -> None:
    async def test(engine: Engine) -> None:
        seen = await see(engine, "What is it?", WIDE)
        params = SamplingParams(max_tokens=400, ignore_eos=True)
        stream = engine.generate(GenerationRequest("r", seen.ids, params, images=seen))
        assert await anext(stream)
        assert engine.stats().running == 1
        await stream.aclose()  # type: ignore[attr-defined]
        await until(lambda: engine.stats().running == 0)

    with_vision("qwen2_5_vl", test)


def test_one_that_gives_up_its_row_goes_on_where_it_was() -> None:
    """With room for hardly more than one, the younger begins again with what it had generated."""

    async def test(engine: Engine) -> None:
        seen = [await see(engine, "What is it?", WIDE), await see(engine, "Who?", TALL)]
        got = await asyncio.gather(*(answer(engine, each, max_tokens=150) for each in seen))
        assert [each.ids for each in got] == [generated("qwen2_5_vl", each, 150) for each in seen]

    # Rows of 128 tokens for both fit, of 256 only one.
    per_token = 2 * 2 * 2 * 16 * 4
    with_vision("qwen2_5_vl", test, kv_bytes=per_token * 300)


@pytest.mark.parametrize(
    ("image", "says"),
    [(png()[:-30], "cannot be read"), (bomb(), "60000"), (b"\x89PNG\r\n\x1a\nrubbish", "cannot be read")],
)
def test_broken_images_are_refused_by_place(image: bytes, says: str) -> None:
    async def test(engine: Engine) -> None:
        with pytest.raises(ApiError) as caught:
            await engine.read_images(rendered(engine, "x", 1), [ImageInput(image, param="here")], specials=False)
        assert (caught.value.status, caught.value.param) == (400, "here")
        assert says in caught.value.message

    with_vision("llava", test)


def test_what_an_image_says_of_itself_is_kept() -> None:
    """Turned by its EXIF, white where it is transparent, the first of its frames, smaller with `low`."""
    from io import BytesIO

    from PIL import Image

    from daemon.engines.transformers.processor import open_image

    turned = Image.Exif()
    turned[0x0112] = 6
    assert open_image(ImageInput(picture("JPEG", 60, 40, exif=turned))).size == (40, 60)
    clear = BytesIO()
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(clear, "PNG")
    assert open_image(ImageInput(clear.getvalue())).getpixel((4, 4)) == (255, 255, 255)
    moving = BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(moving, "GIF", save_all=True, append_images=frames[1:])
    assert open_image(ImageInput(moving.getvalue())).getpixel((4, 4)) == (255, 0, 0)
    assert open_image(ImageInput(picture("PNG", 1024, 256), "low")).size == (512, 128)
    assert open_image(ImageInput(picture("PNG", 100, 50), "low")).size == (100, 50)


def test_what_goes_with_no_image_is_refused_by_name() -> None:
    async def test(engine: Engine) -> None:
        seen = await see(engine, "What is it?", WIDE)
        with pytest.raises(ApiError) as caught:
            await answer(engine, seen, prompt_logprobs=1)
        assert caught.value.param == "prompt_logprobs"
        long = ImagePrompt(seen.ids * 80, seen.tensors)
        with pytest.raises(ApiError) as caught:
            await answer(engine, long)
        assert caught.value.code == "context_length_exceeded"
        with pytest.raises(ApiError) as caught:
            await engine.read_images("no place in here", [ImageInput(WIDE, param="here")], specials=False)
        assert (caught.value.status, caught.value.param) == (400, "here")

    with_vision("qwen2_5_vl", test)


def test_without_pillow_it_reads_texts_and_says_why_it_sees_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "PIL", None)

    async def test(engine: Engine) -> None:
        assert "vision" not in engine.info.capabilities
        assert "pip install 'fcd[vision]'" in engine.info.blind
        ids = engine.tokenizer.encode("The quick brown fox")
        assert len((await ask(engine, ids, max_tokens=5)).ids) == 5

    with_vision("llava", test)


def test_eight_bits_leave_the_eyes_as_they_are() -> None:
    async def test(engine: Engine) -> None:
        one, other = await see(engine, "What is it?", WIDE), await see(engine, "What is it?", TALL)
        assert (await answer(engine, one)).ids != (await answer(engine, other)).ids

    with_vision("llava", test, quantization="8bit")


def test_images_that_the_model_cannot_compute_fail_their_own_request_alone() -> None:
    async def test(engine: Engine) -> None:
        seen = await see(engine, "What is it?", WIDE)
        wrong = ImagePrompt(seen.ids, {**seen.tensors, "pixel_values": seen.tensors["pixel_values"][:, :, :14, :14]})
        words = engine.tokenizer.encode("The quick brown fox")
        good, text, failed = await asyncio.gather(
            answer(engine, seen), ask(engine, words, max_tokens=12), answer(engine, wrong), return_exceptions=True
        )
        assert isinstance(failed, ApiError)
        assert (failed.status, failed.code) == (500, "image_failed")
        assert isinstance(good, Answer)
        assert isinstance(text, Answer)
        assert good.ids == generated("llava", seen)
        assert len(text.ids) == 12

    with_vision("llava", test)
