"""Hides names by which an answer could tell who wrote it.

The same words are hidden in every answer of a blind battle: those of all models that might be in it, and of all known
families. Were only a model's own names hidden, a prompt that makes both sides write a list of names would tell them
apart by the gap. Whether a hidden word was the model's own is kept for the flag, and told after the vote.

Names that are common words ("guide", "falcon", "Google") are hidden only where an answer speaks of itself.

Texts are compared by their letters and digits alone, in lower case, so that `Q w e n` and `**Qwen**` are found too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field

MASK = "█████"
"""Always as long, whatever is behind it."""

_FAMILIES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("qwen", ("qwen", "qwenlm", "tongyi", "qianwen", "qwq", "通义", "千问"), ("alibaba",)),
    ("llama", ("llama", "codellama", "metaai"), ("meta", "facebook")),
    ("vicuna", ("vicuna", "lmsys"), ()),
    ("gpt", ("chatgpt", "gpt", "openai"), ()),
    ("claude", ("claude", "anthropic"), ("opus", "sonnet", "haiku")),
    ("gemma", ("gemma", "googledeepmind"), ("google", "deepmind")),
    ("gemini", ("gemini",), ("google", "bard", "palm")),
    ("mistral", ("mistral", "mixtral", "ministral", "codestral", "mistralai"), ()),
    ("deepseek", ("deepseek", "深度求索"), ()),
    ("phi", (), ("phi", "microsoft")),
    ("falcon", ("tiiuae",), ("falcon",)),
    ("yi", ("zeroone", "01ai", "零一万物"), ("yi",)),
    ("glm", ("chatglm", "glm", "zhipu", "zhipuai", "智谱"), ()),
    ("baichuan", ("baichuan", "百川"), ()),
    ("internlm", ("internlm", "书生"), ()),
    ("smollm", ("smollm",), ("huggingface",)),
    ("olmo", ("olmo", "ai2", "tulu"), ()),
    ("granite", (), ("granite", "ibm")),
    ("nemotron", ("nemotron",), ("nvidia",)),
    ("command", ("cohere",), ("command", "aya")),
    ("koala", (), ("koala",)),
    ("alpaca", ("alpaca",), ()),
    ("dolly", (), ("dolly",)),
    ("dbrx", ("dbrx",), ("databricks",)),
    ("grok", ("grok", "xai"), ()),
    ("hermes", ("nousresearch",), ("hermes", "nous")),
    ("zephyr", (), ("zephyr",)),
    ("orca", (), ("orca",)),
    ("stablelm", ("stablelm",), ("stability",)),
    ("rwkv", ("rwkv",), ()),
    ("mamba", (), ("mamba",)),
    ("kimi", ("kimi", "moonshotai"), ("moonshot",)),
    ("minimax", ("minimaxai",), ("minimax",)),
    ("ernie", ("ernie", "文心"), ("baidu",)),
    ("doubao", ("doubao", "豆包"), ("bytedance",)),
    ("exaone", ("exaone",), ()),
    ("lfm", (), ("liquid",)),
    ("bloom", (), ("bloom", "bigscience")),
    ("tinyllama", ("tinyllama",), ()),
)
"""A part of a model's name; words that name it anywhere; words that do only where an answer speaks of itself."""

_GENERIC_WORDS = (
    "chat instruct base it hf gguf awq gptq int bit fp bf mlx mini small tiny large xl xxl micro nano plus pro max"
    " turbo preview latest model models lm llm ai the of for and distill coder code math vision vl omni reasoning"
    " thinking beta alpha rc dpo sft rlhf lora merged quantized dynamic"
)
_GENERIC = frozenset(_GENERIC_WORDS.split())

_OPENINGS = (
    "iam im mynameis mynames myname callme calledme iamcalled imcalled knownas namedas iamnamed thisis youcancallme"
    " iwascreatedby createdby developedby trainedby madeby builtby producedby providedby poweredby basedon modelby"
    " modelfrom modelcalled modelnamed assistantcalled assistantnamed assistantby assistantfrom"
    " 我是 我叫 我的名字是 jesuis jemappelle ichbin ichheisse ichheiße mellamo soy"
)
_SPEAKS_OF_ITSELF = _OPENINGS.split()
_ARTICLES = ("", "a", "an", "the", "called", "named")

_EXTENSION = re.compile(r"(?:[-_./]?[0-9A-Za-z]+)*(?:[ \u00a0]v?\d+(?:\.\d+)*[A-Za-z]*(?![A-Za-z]))*")
_HELD_AT_MOST = 160
"""Raw characters that are held back at most while they might become a name."""


@dataclass(frozen=True)
class Identity:
    """What names one model."""

    anywhere: frozenset[str]
    of_itself: frozenset[str]


def identity_of(model: str) -> Identity:
    """The words for a model's name, its family and its maker, as letters and digits in lower case."""
    lower = model.lower()
    anywhere, of_itself = set[str](), set[str]()
    for part, everywhere, itself in _FAMILIES:
        if part in lower:
            anywhere.update(everywhere)
            of_itself.update(itself)
    name = lower.rpartition("/")[2].partition("@")[0]
    whole = _letters(name)
    words = [word for word in re.split(r"[\W_\d]+", name) if len(word) >= 3 and word not in _GENERIC]
    if whole and (len(re.split(r"[\W_]+", name)) > 1 or any(letter.isdigit() for letter in whole)) and len(whole) >= 5:
        anywhere.add(whole)
    elif whole:
        of_itself.add(whole)
    of_itself.update(_letters(word) for word in words)
    owner = _letters(lower.rpartition("/")[0])
    if len(owner) >= 3:
        of_itself.add(owner)
    return Identity(frozenset(anywhere), frozenset(of_itself - anywhere))


class Vocabulary:
    """All words that are hidden in one battle."""

    def __init__(self, models: Iterable[str]) -> None:
        anywhere = {word for _, everywhere, _ in _FAMILIES for word in everywhere}
        of_itself = {word for _, _, itself in _FAMILIES for word in itself}
        for model in models:
            identity = identity_of(model)
            anywhere |= identity.anywhere
            of_itself |= identity.of_itself
        self._anywhere = sorted(anywhere, key=len, reverse=True)
        self._of_itself = sorted(of_itself - anywhere, key=len, reverse=True)
        names = "|".join(map(re.escape, self._anywhere))
        selves = "|".join(map(re.escape, _SPEAKS_OF_ITSELF))
        common = "|".join(map(re.escape, self._of_itself))
        articles = "|".join(each for each in _ARTICLES if each)
        self._pattern = re.compile(rf"(?:{selves})(?:{articles})?(?P<self>{common})|(?P<name>{names})")

    def match(self, letters: str, start: int) -> tuple[int, int, str] | None:
        """Where the hidden word begins and ends, and the word, for letters that name a model from `start` on."""
        found = self._pattern.match(letters, start)
        if found is None:
            return None
        group = "self" if found["self"] is not None else "name"
        return found.start(group), found.end(group), found[group]

    def may_grow(self, letters: str) -> bool:
        """Whether these letters could be the beginning of something that is hidden."""
        if any(word.startswith(letters) for word in self._anywhere):
            return True
        for opening in _SPEAKS_OF_ITSELF:
            if opening.startswith(letters):
                return True
            if letters.startswith(opening) and self._may_name(letters[len(opening) :]):
                return True
        return False

    def _may_name(self, rest: str) -> bool:
        for article in _ARTICLES:
            if article.startswith(rest):
                return True
            if rest.startswith(article) and any(word.startswith(rest[len(article) :]) for word in self._of_itself):
                return True
        return False


@dataclass
class Masker:
    """One answer as it comes in; `text` is what may be shown of it so far, and never changes but by growing."""

    vocabulary: Vocabulary | None
    own: frozenset[str] = frozenset()
    text: str = ""
    named_itself: bool = False
    _pending: str = ""
    _before: str = ""
    _raw_shown: int = 0
    _hidden: list[tuple[int, int, int]] = field(default_factory=list)
    """Where a mask begins in `text`, and the range of what came in that it stands for."""

    def feed(self, text: str) -> None:
        self._pending += text
        self._advance(finished=False)

    def finish(self) -> None:
        self._advance(finished=True)

    def raw_length(self, shown: int) -> int:
        """How much of what came in is behind the first `shown` characters of `text`; a name that is cut is left out."""
        offset = 0
        for start, raw_start, raw_end in self._hidden:
            if shown <= start:
                break
            if shown < start + len(MASK):
                return raw_start
            offset = raw_end - start - len(MASK)
        return shown + offset

    def _advance(self, *, finished: bool) -> None:
        if self.vocabulary is None:
            self._show(len(self._pending), self._pending)
            return
        while self._pending:
            start, end, word = self._next(finished)
            if start:
                self._show(start, self._pending[:start])
                end -= start
            if not word:
                return
            self.named_itself = self.named_itself or word in self.own
            self._hidden.append((len(self.text), self._raw_shown, self._raw_shown + end))
            self._show(end, MASK)

    def _next(self, finished: bool) -> tuple[int, int, str]:
        """The next hidden word as (start, end, word); without one, what can be shown as (length, 0, '')."""
        assert self.vocabulary is not None
        letters, places = _projected(self._pending)
        text = self._pending
        for index, place in enumerate(places):
            if not _is_start(text, place, self._before):
                continue
            found = self.vocabulary.match(letters, index)
            if found is not None:
                first, last = places[found[0]], places[found[1] - 1] + 1
                end = _extended(text, last)
                if not finished and end >= len(text) - 1 and len(text) - place < _HELD_AT_MOST:
                    return place, 0, ""
                if end > last or _is_end(text, last):
                    return first, end, found[2]
            if not finished and len(text) - place < _HELD_AT_MOST and self.vocabulary.may_grow(letters[index:]):
                return place, 0, ""
        return len(text), 0, ""

    def _show(self, raw: int, shown: str) -> None:
        if raw:
            self._before = self._pending[raw - 1]
        self._pending = self._pending[raw:]
        self._raw_shown += raw
        self.text += shown


def masked(text: str, vocabulary: Vocabulary) -> str:
    """A whole answer with its names hidden."""
    masker = Masker(vocabulary)
    masker.feed(text)
    masker.finish()
    return masker.text


def names_itself(text: str, model: str) -> bool:
    """Whether an answer tells the name, family or maker of the model that wrote it."""
    identity = identity_of(model)
    masker = Masker(Vocabulary([model]), identity.anywhere | identity.of_itself)
    masker.feed(text)
    masker.finish()
    return masker.named_itself


def _letters(text: str) -> str:
    return _projected(text)[0]


def _projected(text: str) -> tuple[str, list[int]]:
    """Letters and digits in lower case without accents, and where each is in `text`."""
    if text.isascii():
        places = [index for index, character in enumerate(text) if character.isalnum()]
        return "".join(text[index] for index in places).lower(), places
    letters, found = list[str](), list[int]()
    for index, character in enumerate(text):
        for plain in unicodedata.normalize("NFKD", character).lower():
            if plain.isalnum():
                letters.append(plain)
                found.append(index)
    return "".join(letters), found


def _is_start(text: str, place: int, before: str) -> bool:
    """Whether a word may begin here; scripts without spaces have words anywhere."""
    previous = text[place - 1] if place else before
    return not previous.isalpha() or ord(text[place]) > 0x2E80 or ord(previous) > 0x2E80


def _is_end(text: str, end: int) -> bool:
    return end >= len(text) or not text[end].isalpha() or ord(text[end - 1]) > 0x2E80


def _extended(text: str, end: int) -> int:
    """With versions and sizes that follow: `Qwen2.5-7B-Instruct`, `Llama 3.1 8B`; a longer word is no match."""
    if end < len(text) and text[end].isalpha() and ord(text[end - 1]) <= 0x2E80 and text[end] not in "sS":
        return end
    found = _EXTENSION.match(text, end)
    return found.end() if found else end
