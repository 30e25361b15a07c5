"""The tokenizer: byte-level BPE with single digits, a ChatML template, and letter-by-letter spans for training."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from fcd.builtin import CONTEXT_LENGTH
from fcd.builtin.generator.base import LETTERS_CLOSE, LETTERS_OPEN, plain

VOCABULARY: Final = 4096
SPECIAL: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PAD, START, END = range(3)

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# Words with their leading space, one digit at a time, runs of punctuation, white space.
_PIECES: Final = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SPANS: Final = re.compile(f"{LETTERS_OPEN}([^{LETTERS_CLOSE}]*){LETTERS_CLOSE}")


def train_tokenizer(texts: Iterable[str], vocabulary: int = VOCABULARY) -> Any:
    """A tokenizers.Tokenizer of at most `vocabulary` entries; every byte has one, so any text round-trips."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        max_token_length=12,
        show_progress=False,
    )
    tokenizer.train_from_iterator((_SPANS.sub(" ", text) for text in texts), trainer)
    return tokenizer


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and the chat template as transformers loads them."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=None,
        eos_token=SPECIAL[END],
        pad_token=SPECIAL[PAD],
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(str(folder))


class Encoder:
    """Turns conversations into token ids and a mask of what is learned: assistant text with its end mark."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._head = [START, *tokenizer.encode("assistant\n").ids]
        self._newline = tokenizer.encode("\n").ids
        self._characters: dict[str, list[int]] = {}

    def text(self, text: str) -> list[int]:
        """Ids of `text`; what `letters` marked becomes one token per character (per byte beyond ASCII)."""
        ids: list[int] = []
        at = 0
        for span in _SPANS.finditer(text):
            ids += self._tokenizer.encode(text[at : span.start()]).ids if span.start() > at else []
            for character in span.group(1):
                ids += self._character(character)
            at = span.end()
        return ids + (self._tokenizer.encode(text[at:]).ids if at < len(text) else [])

    def _character(self, character: str) -> list[int]:
        known = self._characters.get(character)
        if known is None:
            known = self._characters[character] = self._tokenizer.encode(character).ids
        return known

    def turn(self, role: str, content: str) -> list[int]:
        """Ids of one message as the chat template writes it, with the line break after it."""
        return [START, *self.text(f"{role}\n{content}"), END, *self._newline]

    def exchange(self, question: str, answer: str) -> tuple[list[int], list[int]]:
        """(ids, mask) of a user message and the reply to it; mask is 1 on the reply and its end mark."""
        asked = self.turn("user", plain(question))
        replied = self.turn("assistant", answer)
        head = len(self._head)
        mask = [0] * (len(asked) + head) + [1] * (len(replied) - head - 1) + [0]
        return asked + replied, mask
