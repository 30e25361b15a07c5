"""In which language a prompt is: by its script and, in Latin script, by its commonest words. Good for a filter."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

UNKNOWN = "unknown"

_SCRIPTS = {
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "HANGUL": "ko",
    "CJK": "zh",
    "CYRILLIC": "ru",
    "ARABIC": "ar",
    "HEBREW": "he",
    "GREEK": "el",
    "THAI": "th",
    "DEVANAGARI": "hi",
    "LATIN": "latin",
}

_COMMON = {
    "en": "the of and to in is that it for you what how are with this do can i a my be on who why me about write",
    "de": "der die das und ist nicht ein eine ich zu mit wie was für auf den von sie es im wir warum kannst mir",
    "fr": "le la les des et est une un je que pour dans pas qui vous sur avec comment ce quoi écris moi en du",
    "es": "el los las y es una un que de para por en no con como qué cómo me mi del se lo escribe cuál por",
    "pt": "o os as e é uma um que de para por em não com como meu minha do da se você escreva qual são",
    "it": "il lo gli e è una un che di per in non con come mi del della sono perché cosa scrivi quale",
    "nl": "de het een en is niet ik van dat op te zijn voor met hoe wat waarom je mij schrijf kun",
    "pl": "i w nie na jest się to że z do jak co dla o czy mi napisz dlaczego",
    "tr": "ve bir bu ne için mi nasıl ben sen çok ile da de neden yaz",
    "vi": "là và của có không tôi một cho như thế nào bạn viết gì",
    "id": "dan yang di itu ini untuk dengan apa bagaimana saya tidak tulis mengapa",
}
_WORDS = {language: frozenset(words.split()) for language, words in _COMMON.items()}

NAMES = {
    "english": "en", "german": "de", "french": "fr", "spanish": "es", "portuguese": "pt", "italian": "it",
    "dutch": "nl", "polish": "pl", "turkish": "tr", "vietnamese": "vi", "indonesian": "id", "japanese": "ja",
    "korean": "ko", "chinese": "zh", "russian": "ru", "ukrainian": "ru", "arabic": "ar", "hebrew": "he",
    "greek": "el", "thai": "th", "hindi": "hi",
}  # fmt: skip
"""FastChat writes names of languages."""


def language_of(text: str) -> str:
    """A code such as `en`, or `unknown`."""
    sample = text[:4000]
    scripts = Counter(script for character in sample if (script := _script(character)))
    if not scripts:
        return UNKNOWN
    if scripts["ja"] and scripts["ja"] * 10 >= scripts["zh"]:
        return "ja"
    script = scripts.most_common(1)[0][0]
    return _latin(sample) if script == "latin" else script


def code_of(name: str) -> str:
    """The code for a name of a language or a code; others as they are, in lower case."""
    lower = name.strip().lower()
    return NAMES.get(lower, lower or UNKNOWN)


def _latin(text: str) -> str:
    words = re.findall(r"[^\W\d_]+", text.lower())
    votes = {language: sum(word in common for word in words) for language, common in _WORDS.items()}
    best = max(votes, key=lambda language: (votes[language], language == "en"))
    return best if votes[best] else UNKNOWN


def _script(character: str) -> str:
    if character.isascii():
        return "latin" if character.isalpha() else ""
    if not character.isalpha():
        return ""
    return _SCRIPTS.get(unicodedata.name(character, "").split(" ", 1)[0].split("-", 1)[0], "")
