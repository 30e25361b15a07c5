"""Other ways to ask the same: imperatives made polite, questions made indirect. Works on templates."""

from __future__ import annotations

from random import Random
from typing import Final

_VERBS: Final = frozenset(
    [
        "add",
        "arrange",
        "break",
        "bring",
        "bullet",
        "calculate",
        "capitalize",
        "change",
        "compute",
        "convert",
        "copy",
        "count",
        "create",
        "delete",
        "describe",
        "divide",
        "double",
        "drop",
        "echo",
        "explain",
        "express",
        "find",
        "flip",
        "format",
        "give",
        "halve",
        "introduce",
        "leave",
        "list",
        "make",
        "multiply",
        "name",
        "number",
        "order",
        "please",
        "prepend",
        "print",
        "put",
        "remove",
        "repeat",
        "replace",
        "reverse",
        "say",
        "show",
        "sort",
        "spell",
        "split",
        "start",
        "substitute",
        "subtract",
        "swap",
        "take",
        "tell",
        "turn",
        "type",
        "uppercase",
        "lowercase",
        "alphabetize",
        "append",
        "work",
        "write",
    ]
)
_DO: Final = (
    "Can you {v}?", "Could you {v}?", "Could you please {v}?", "I want you to {v}.", "I would like you to {v}.",
    "Please {v}.", "Would you {v}?", "You should {v}.", "{V} for me.", "Kindly {v}.", "Will you {v}?",
    "Can you please {v}?", "Go ahead and {v}.", "Try to {v}.", "I need you to {v}.", "Please {v} for me.", "Now {v}.",
    "Let us {v}.", "I want to {v}.", "My task for you: {v}", "Please, could you {v}?", "Help me {v}.",
    "You must {v}.", "I'd like you to {v}.", "Be so kind and {v}.",
)  # fmt: skip
_KNOW: Final = (
    "Tell me {x}.", "Give me {x}.", "Can you tell me {x}?", "Do you know {x}?", "I want to know {x}.",
    "I would like to know {x}.", "Could you tell me {x}?", "Say {x}.", "Please tell me {x}.", "What's {x}?",
    "whats {x}",
    "Could you give me {x}?", "Please name {x}.", "Show me {x}.", "Which is {x}?", "I need {x}.", "{x}",
    "I'd like to know {x}.", "What would be {x}?", "Can you give me {x}?", "Let me know {x}.", "Find {x}.",
    "and {x}?",
)  # fmt: skip
_CLAUSE: Final = (
    "Tell me {x}.", "Can you tell me {x}?", "Do you know {x}?", "I want to know {x}.", "I would like to know {x}.",
    "Could you tell me {x}?", "Please tell me {x}.", "I wonder {x}.", "Please say {x}.", "Can you say {x}?",
    "I am asking {x}.", "Let me know {x}.", "Any idea {x}?", "I'd like to know {x}.", "Could you say {x}?",
)  # fmt: skip


def rephrase(template: str, rng: Random) -> str:
    """`template` asked in another way, or as it is where none of the ways fits."""
    end = template.endswith((".", "?"))
    core = template.rstrip(".?!")
    first, _, rest = core.partition(" ")
    lowered = first.lower()
    colon = ":" in template
    if lowered in _VERBS and rest and not colon:
        core = core.removeprefix("Please ").removeprefix("please ")
        return rng.choice(_DO).format_map(_Keep(v=core[:1].lower() + core[1:], V=core[:1].upper() + core[1:]))
    for start in ("What is the ", "What's the ", "Which is the "):
        if template.startswith(start) and end:
            return rng.choice(_KNOW).format_map(_Keep(x="the " + core[len(start) :]))
    if (
        template.startswith(("How many ", "Which ", "What ", "How much ", "How "))
        and end
        and not colon
        and " do " not in f" {core} "
    ):
        return rng.choice(_CLAUSE).format_map(_Keep(x=core[:1].lower() + core[1:]))
    return template


class _Keep(dict[str, str]):
    """A mapping for str.format_map whose values are themselves templates, taken as they are."""
