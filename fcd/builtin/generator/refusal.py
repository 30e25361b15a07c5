"""Questions out of reach: open prompts, and the plain replies that say so and how to get a larger model."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fcd.builtin.generator.base import Context, Skill, Turn, is_held_out
from fcd.builtin.generator.checks import refuses
from fcd.builtin.generator.tables import pairs

_OWN: Final = Path(__file__).resolve().parent.parent / "data" / "open-prompts.txt"

# Prompts that a skill answers; they would teach the model to refuse what it can do.
_WITHIN: Final = re.compile(
    r"hello,? world|opposite of|antonym|capital (city )?of (the country|a country)|adds? two (numbers|integers)"
    r"|sum of two (numbers|integers)|days? (of|in) (the|a) week",
    re.IGNORECASE,
)

_SAY: Final = (
    "That is beyond me: I am only fcd's small built-in model.",
    "I am sorry, I am a small built-in model and cannot do that.",
    "I am just the small built-in model of fcd, and that is out of my reach.",
    "That is too hard for me: I am a small built-in model.",
    "I cannot do that well: I am fcd's small built-in model.",
)
_GET: Final = (
    "Get a larger one with `fcd pull Qwen/Qwen3-0.6B`, then `fcd chat -m Qwen/Qwen3-0.6B`.",
    "A real model can: `fcd chat -m Qwen/Qwen3-0.6B` downloads one and starts it.",
    "Try a larger model: `fcd pull Qwen/Qwen3-0.6B`.",
    "`fcd pull Qwen/Qwen3-0.6B` gets a larger model, and `fcd chat -m Qwen/Qwen3-0.6B` talks to it.",
)

_WRITE: Final = (
    "Write {f} about {t}.", "Can you write {f} about {t}?", "I need {f} about {t}.", "Please write {f} on {t}.",
    "Compose {f} about {t}", "write me {f} about {t}", "{f} about {t}",
)  # fmt: skip
_FORMS: Final = (
    "a poem", "a story", "an essay", "a song", "a letter", "a haiku", "a speech", "a report", "a blog post",
    "an article", "a joke in rhyme", "a dialogue", "a book review", "a tweet", "an email",
)  # fmt: skip
_ASK: Final = (
    "Explain {t}.", "Tell me about {t}.", "What is {t}?", "How does {t} work?", "Why is {t} important?",
    "Who invented {t}?", "What do you think of {t}?", "Describe {t}.", "Give me facts about {t}.",
    "What is the history of {t}?", "Compare {t} and {u}.", "What is the difference between {t} and {u}?",
    "Can you teach me {t}?", "Where can I learn {t}?", "What are the advantages of {t}?",
    "Summarise {t}.", "How do I get better at {t}?", "How old is {t}?", "Define {t}.", "Is {t} better than {u}?",
    "How did {t} begin?", "When was {t} invented?", "What causes {t}?", "Who is the best at {t}?",
    "Explain {t} like I am five", "Translate '{t}' into German.", "What does {t} mean?", "What is the price of {t}?",
    "How much does {t} weigh?", "Draw {t}.", "Buy {t} for me.", "How is {t} made?",
)  # fmt: skip
_HOW: Final = (
    "How do I {v}?", "How can I {v}?", "Can you {v}?", "Help me {v}.", "I want to {v}.", "Tell me how to {v}.",
    "What is the best way to {v}?", "Show me how to {v}.", "How long does it take to {v}?", "Should I {v}?",
    "Teach me to {v}.", "Give me tips to {v}.", "Please {v}.", "What do I need to {v}?", "Is it hard to {v}?",
    "I need to {v}.", "Why should I {v}?", "How much does it cost to {v}?",
)  # fmt: skip
_DO: Final = (
    "cook rice", "learn French", "fix a bike", "write a novel", "build a house", "lose weight", "install Docker",
    "use git", "learn Python", "play chess", "tie a knot", "grow roses", "paint a wall", "sleep better",
    "start a company", "invest money", "pass an exam", "find a job", "bake a cake", "repair a phone", "train a dog",
    "plan a wedding", "clean a sofa", "swim faster", "run a marathon", "write an application letter",
    "make friends", "sew a dress", "draw a face", "learn to dance", "solve a quadratic equation", "use a microscope",
    "parse HTML", "build a website", "deploy a web app", "write a compiler", "sort a dictionary by value",
    "reverse a linked list", "connect to a database", "merge two branches", "undo a git commit",
    "use regular expressions", "write a shell script", "set up a firewall", "order a pizza", "book a flight",
    "call a taxi",
    "open a bank account", "read a map", "save money", "write a letter to my aunt", "remember vocabulary",
    "count calories", "convert a PDF to text", "list files by size", "spell better", "load a dishwasher",
    "download a video", "delete my account", "remove a stain", "run a restaurant", "stop smoking",
    "restart my router", "show my photos", "find a flat",
)  # fmt: skip
_WHO: Final = (
    "Who is {p}?", "When was {p} born?", "What did {p} do?", "Where did {p} live?", "Tell me about {p}.",
    "How old is {p}?", "Is {p} still alive?", "Write about the life of {p}.", "Who was {p}?",
    "What is {p} famous for?", "Pretend to be {p}.", "Quote {p}.", "What would {p} say about this?",
)  # fmt: skip
_PEOPLE: Final = (
    "Einstein", "Napoleon", "Shakespeare", "Marie Curie", "Mozart", "Cleopatra", "Julius Caesar", "Leonardo da Vinci",
    "Isaac Newton", "Ada Lovelace", "Alan Turing", "Beethoven", "Gandhi", "Elvis Presley", "Picasso",
    "the president", "the Pope", "the king of England", "Sherlock Holmes", "Harry Potter", "Michael Jordan",
    "Columbus", "Darwin", "Galileo", "Plato", "Aristotle", "Queen Victoria", "Taylor Swift", "Elon Musk",
)  # fmt: skip
_COUNTRY: Final = (
    "How many people live in {c}?", "What is the population of {c}?", "What is the currency of {c}?",
    "Which language is spoken in {c}?", "Who is the president of {c}?", "What is the largest city in {c}?",
    "What food do people eat in {c}?", "Tell me about {c}.", "Where is {c}?", "Is {c} worth a visit?",
    "What is the history of {c}?", "How big is {c}?", "What is the flag of {c}?", "How do I get to {c}?",
    "What is the highest mountain in {c}?", "Plan a trip to {c}.", "What is the weather in {c}?",
    "Write a report about {c}.", "What are the neighbours of {c}?", "When is the best time to visit {c}?",
)  # fmt: skip
_TOPICS: Final = (
    "love", "the sea", "football", "climate change", "electricity", "the Roman Empire", "dogs", "cats", "music",
    "cooking", "space travel", "dinosaurs", "the brain", "bicycles", "coffee", "chess", "democracy",
    "photography", "the weather", "volcanoes", "painting", "physics", "chemistry", "philosophy", "religion", "poetry",
    "trains", "robots", "artificial intelligence", "mathematics", "the moon", "whales", "money",
    "the stock market", "farming", "bread", "wine", "fashion", "medicine", "history", "the internet", "batteries",
    "glass", "paper", "the telephone", "gravity", "light", "sound", "evolution", "genes", "law",
    "friendship", "happiness", "war", "winter", "a lost key", "a brave mouse", "my grandmother", "Paris", "Japan",
    "Einstein", "Shakespeare", "Mozart", "Bitcoin", "Kubernetes", "Docker", "JavaScript", "SQL",
)  # fmt: skip
_SHORTEN: Final = (
    "Summarise: {x}", "Summarize: {x}", "Summarise this: {x}", "Summarise:\n{x}", "{x}\nSummarise:",
    "Translate into French: {x}", "Translate: {x}", "Correct this: {x}", "Explain this: {x}",
    "What does this mean: {x}",
    "Continue: {x}", "Rewrite this in a formal style: {x}", "Is this true: {x}", "What is this about: {x}",
    "Shorten this: {x}", "Improve this: {x}", "Write a story with these words: {x}", "TL;DR: {x}",
)  # fmt: skip


def load_open_prompts(file: Path | None = None) -> tuple[list[str], list[str]]:
    """(to train on, unseen): the package's own list, and JSON lines with a `prompt` key; a tenth is unseen."""
    prompts = _OWN.read_text(encoding="utf-8").splitlines()
    if file is not None:
        rows = file.read_text(encoding="utf-8").splitlines()
        prompts += [json.loads(row)["prompt"] for row in rows if row.strip()]
    kept = sorted({prompt.strip() for prompt in prompts if prompt.strip() and not _WITHIN.search(prompt)})
    return [p for p in kept if not is_held_out(p)], [p for p in kept if is_held_out(p)]


def reply(ctx: Context) -> str:
    """A refusal in one of its wordings."""
    return f"{ctx.rng.choice(_SAY)} {ctx.rng.choice(_GET)}"


def _vary(prompt: str, ctx: Context, prompts: Sequence[str]) -> str:
    """The prompt as others would type it: cut, joined with another, in lower case, without its end."""
    rng = ctx.rng
    kind = rng.randrange(10)
    if kind == 0:
        return prompt.lower()
    if kind == 1:
        return prompt.rstrip(".?!")
    if kind == 2:
        return f"{prompt} {rng.choice(prompts)}"
    if kind == 3:
        return f"Can you {prompt[:1].lower()}{prompt[1:]}" if not prompt.startswith(("You", "I")) else prompt
    if kind == 4:
        words = prompt.split(" ")
        return " ".join(words[: rng.randint(min(len(words), 6), len(words))])
    if kind == 5:
        words = [word for word in prompt.split(" ") if rng.random() > 0.1]
        return " ".join(words) or prompt
    return prompt


def _invent(ctx: Context) -> str:
    """A question out of reach put together from parts."""
    rng = ctx.rng
    kind = rng.randrange(8)
    if kind in (4, 5):
        return rng.choice(_HOW).format(v=rng.choice(_DO))
    if kind == 6:
        return rng.choice(_WHO).format(p=rng.choice(_PEOPLE))
    if kind == 7:
        return rng.choice(_COUNTRY).format(c=rng.choice(pairs("capitals", "pairs", "="))[0])
    if kind == 0:
        return rng.choice(_WRITE).format(f=rng.choice(_FORMS), t=rng.choice(_TOPICS))
    if kind == 1:
        first, second = rng.sample(_TOPICS, 2)
        return rng.choice(_ASK).format(t=first, u=second)
    if kind == 2:
        text = (
            rng.choice(ctx.open_prompts)
            if rng.random() < 0.5
            else " ".join(ctx.word(2, 8) for _ in range(rng.randint(2, 20)))
        )
        return rng.choice(_SHORTEN).format(x=text)
    if rng.random() < 0.4:
        a, b = rng.randint(13, 999), rng.randint(9, 99)
        return rng.choice(
            ("What is {a} * {b}?", "{a} x {b}", "{a}*{b}", "{a} times {b}", "What is {a} times {b}?")
        ).format(a=a, b=b)
    a, b = rng.randint(150, 99999), rng.randint(102, 9999)
    return rng.choice(
        ("What is {a} {o} {b}?", "{a} {o} {b}", "{a}{o}{b}", "Calculate {a} {o} {b}.", "How much is {a} {o} {b}?")
    ).format(a=a, b=b, o=rng.choice("+-*/"))


def make(ctx: Context) -> list[Turn]:
    """One question out of reach and a plain refusal."""
    if ctx.held_out or ctx.rng.random() < 0.7:
        prompt = ctx.rng.choice(ctx.open_prompts)
        question = prompt if ctx.held_out else _vary(prompt, ctx, ctx.open_prompts)
    else:
        question = _invent(ctx)
    return [Turn(question, reply(ctx), refuses)]


SKILLS: Final = (Skill("out of reach", make, (), weight=7.0),)
