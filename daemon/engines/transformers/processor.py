"""A model's own processor: from a rendered chat and its images to token ids and the tensors that the model sees."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from daemon.engines.base import ImageInput, ImagePrompt
from fcd.errors import ApiError, ModelLoadError
from fcd.images import KINDS, MAX_PIXELS

log = logging.getLogger("fcd.engine")

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
_LOW = (512, 512)
"""What `detail: low` shrinks an image to fit into."""
_EXTRA = "pip install 'fcd[vision]'"


class ImageProcessor:
    """Turns prompts with images into what the model takes. Any thread may call it; one works at a time.

    Args:
        processor: the model's own, from transformers.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._lock = threading.Lock()

    def prepare(self, text: str, images: Sequence[ImageInput], *, specials: bool) -> ImagePrompt:
        """Decompress the images and put their tokens into the prompt. Slow; belongs in a thread.

        Raises:
            ApiError: 400; an image that cannot be read, or a prompt with other places for images.
        """
        with self._lock:
            opened = [open_image(image) for image in images]
            try:
                made = self._processor(text=[text], images=opened, return_tensors="pt", add_special_tokens=specials)
            except Exception as error:
                # A processor is written for one family: whatever it raises is about these images in this prompt.
                log.debug("the processor failed", exc_info=True)
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise ApiError(
                    400,
                    f"The model's processor cannot take these images in this prompt: {reason[:300]}",
                    code="invalid_request",
                    param=images[0].param if images else "messages",
                ) from None
        tensors = dict(made)
        ids = [int(token) for token in tensors.pop("input_ids")[0].tolist()]
        return ImagePrompt(ids, tensors)


def open_image(image: ImageInput) -> Any:
    """An image as RGB, upright, its first frame; what is transparent is white.

    Raises:
        ApiError: 400; it is broken, or larger than is taken.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(BytesIO(image.data), formats=_FORMATS) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise ValueError(f"it has {opened.width} x {opened.height} pixels")
            upright = ImageOps.exif_transpose(opened) or opened
            if image.detail == "low":
                upright.thumbnail(_LOW)
            if upright.has_transparency_data:
                clear = upright.convert("RGBA")
                ground = Image.new("RGBA", clear.size, "white")
                return Image.alpha_composite(ground, clear).convert("RGB")
            return upright.convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        reason = str(error) or type(error).__name__
        raise ApiError(
            400,
            f"'{image.param}' holds an image that cannot be read ({reason[:200]}): {KINDS} are.",
            code="invalid_request",
            param=image.param,
        ) from None


def load_processor(folder: Path, config: Any, trust: bool) -> tuple[Any, str]:
    """The model's processor; None with the reason where there is none to be had."""
    try:
        import PIL  # noqa: F401
    except ImportError:
        return None, f"Pillow is not installed where the model runs ({_EXTRA})"
    try:
        return for_images(_processor_class(folder, config)).from_pretrained(
            folder, backend="pil", trust_remote_code=trust, local_files_only=True
        ), ""
    except Exception as error:
        log.warning("images cannot be taken: the processor does not load", exc_info=True)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return None, f"its image processor cannot be loaded: {reason[:200]}"


def _processor_class(folder: Path, config: Any) -> Any:
    """The class that the model's files name, else the one that its family has."""
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    for name in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        try:
            named = json.loads((folder / name).read_text(encoding="utf-8")).get("processor_class")
        except (OSError, ValueError, AttributeError):
            continue
        found = getattr(transformers, named, None) if isinstance(named, str) else None
        if found is not None:
            return found
    if type(config) in PROCESSOR_MAPPING:
        return PROCESSOR_MAPPING[type(config)]
    raise ModelLoadError("transformers has no processor for this model")


def for_images(kind: Any) -> Any:
    """A processor's class without its part for videos, which needs torchvision and which nothing here asks for."""
    if not any("video" in name for name in kind.get_attributes()):
        return kind

    class ForImages(kind):  # type: ignore[misc]
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in kind.get_attributes() if "video" not in name]

    ForImages.__name__ = kind.__name__
    ForImages.__module__ = kind.__module__
    return ForImages
