"""How people really type: greetings and politeness around a question, lost capitals and punctuation, small typos."""

from __future__ import annotations

from random import Random
from typing import Final

_BEFORE: Final = (
    "please {q}", "Please, {q}", "hey, {q}", "hi, {q}", "Hello! {Q}", "ok, {q}", "Okay. {Q}", "so, {q}", "now {q}",
    "Quick question: {q}", "One more: {q}", "And now: {q}", "can you help me? {Q}", "I have a question. {Q}",
    "next: {q}", "tell me, {q}", "well, {q}", "Thanks. {Q}", "Great! {Q}", "good, {q}", "Hey there! {Q}",
)  # fmt: skip
_AFTER: Final = (
    "{q} please", "{q}, please", "{q} Thanks!", "{q} thank you", "{q} I am curious.", "{q} :)", "{q}\n",
    "{q} Be brief.",
    "{q} Answer shortly.", "{q} Can you do that?", "{q} please?",
)  # fmt: skip


def wrap(question: str, rng: Random, share: float = 0.25) -> str:
    """`question` with something around it, in a `share` of cases. The question itself stays as it is."""
    if rng.random() >= share or len(question) > 200 or "\n" in question:
        return question
    first = question[:1]
    keep = question[:2].isupper() or question.startswith("I ")
    lowered = question if keep else first.lower() + question[1:]
    if rng.random() < 0.65:
        return rng.choice(_BEFORE).format(q=lowered, Q=question)
    bare = question.rstrip("?.!") if rng.random() < 0.5 else question
    return rng.choice(_AFTER).format(q=bare)


def loosen(template: str, rng: Random, share: float = 0.3) -> str:
    """A template without its capital, its question mark, or its apostrophe: for templates, before values go in."""
    if rng.random() >= share:
        return template
    kind = rng.randrange(4)
    if kind == 0:
        return template[:1].lower() + template[1:]
    if kind == 1:
        return template.rstrip("?.!")
    if kind == 2:
        return (template[:1].lower() + template[1:]).rstrip("?.!").replace("'s ", "s ")
    return typo(template, rng)


def typo(template: str, rng: Random) -> str:
    """Swap or drop one letter inside a long word of the template; never inside {braces} or `code`."""
    if "`" in template:
        return template
    words = template.split(" ")
    places = [i for i, word in enumerate(words) if len(word) > 4 and word.isalpha()]
    if not places:
        return template
    place = rng.choice(places)
    word = words[place]
    at = rng.randrange(1, len(word) - 2)
    if rng.random() < 0.5:
        words[place] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    else:
        words[place] = word[:at] + word[at + 1 :]
    return " ".join(words)
