"""The generator of the built-in models: repeatable, clear of what is held out, checked by checkers that can say no."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

import pytest

from fcd.builtin.generator import facts
from fcd.builtin.generator.base import Context, Skill, is_held_out, normalized, plain
from fcd.builtin.generator.checks import exactly, in_order, is_refusal, last_number, says, spelled
from fcd.builtin.generator.conversation import new_context, write_dialogue
from fcd.builtin.generator.guard import is_kept_out
from fcd.builtin.generator.refusal import load_open_prompts
from fcd.builtin.generator.registry import SKILLS
from fcd.builtin.generator.words import word_pool
from fcd.cli.chatting.slash import NAMES as SLASHES
from fcd.cli.table import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PROMPTS, UNSEEN = load_open_prompts()
WORDS = word_pool(1)
REFUSAL = "That is beyond me: I am only fcd's small built-in model. Try a larger model: `fcd pull Qwen/Qwen3-0.6B`."


def written(seed: int, count: int) -> list[str]:
    rng = Random(seed)
    found = []
    for _ in range(count):
        for turn in write_dialogue(new_context(rng, WORDS, PROMPTS)):
            found += [turn.question, turn.answer]
    return found


def ask(skill: Skill, rng: Random, held_out: bool) -> Context:
    return Context(rng, WORDS, held_out=held_out, unseen_values=held_out, open_prompts=UNSEEN if held_out else PROMPTS)


def test_the_same_seed_writes_the_same_conversations() -> None:
    assert written(3, 200) == written(3, 200)
    assert written(3, 200) != written(4, 200)


@pytest.mark.parametrize("skill", SKILLS, ids=lambda skill: skill.name)
def test_phrasings_held_out_are_not_trained_on(skill: Skill) -> None:
    for phrasings in skill.phrasings:
        assert phrasings.train
        assert phrasings.held_out
    train = {normalized(text) for phrasings in skill.phrasings for text in phrasings.train}
    held_out = {normalized(text) for phrasings in skill.phrasings for text in phrasings.held_out}
    assert not train & held_out


def test_no_conversation_to_train_on_asks_in_a_held_out_way() -> None:
    rng = Random(11)
    for _ in range(2000):
        for turn in write_dialogue(new_context(rng, WORDS, PROMPTS)):
            assert not is_kept_out(turn.question), turn.question


@pytest.mark.parametrize(
    "question",
    ["Could you spell river for me?", "tell me the sum of 3 and 4", "Please name three birds", "How clever are you"],
)
def test_the_guard_knows_held_out_questions(question: str) -> None:
    assert is_kept_out(question)
    assert not is_kept_out("Spell river, would you?")


@pytest.mark.parametrize("skill", SKILLS, ids=lambda skill: skill.name)
@pytest.mark.parametrize("held_out", [False, True])
def test_checkers_take_right_answers_and_no_others(skill: Skill, held_out: bool) -> None:
    rng = Random(5)
    turns = [skill.make(ask(skill, rng, held_out))[-1] for _ in range(150)]
    different = rejected = 0
    for turn, other in zip(turns, turns[1:] + turns[:1], strict=True):
        assert turn.check is not None
        assert turn.check(plain(turn.answer)), turn
        assert not turn.check(""), turn
        assert not turn.check("I like turtles"), turn
        if plain(other.answer) != plain(turn.answer):
            different += 1
            rejected += not turn.check(plain(other.answer))
    if skill.name != "out of reach":
        assert not any(turn.check(REFUSAL) for turn in turns if turn.check)
        assert rejected >= different * 0.3


def test_checkers_reject_near_misses() -> None:
    assert last_number(19)("12 + 7 = 19")
    assert not last_number(19)("12 + 7 = 18")
    assert spelled("nose")("n-o-s-e")
    assert not spelled("nose")("n-o-s")
    assert in_order(["1", "2", "3"], alone=True)("1, 2, 3")
    assert not in_order(["1", "2", "3"], alone=True)("1, 2, 3, 4")
    assert says("Paris")("The capital of France is Paris.")
    assert not says("Paris")("The capital of France is Parish.")
    assert exactly("HELLO")(' "HELLO"\n')
    assert not exactly("HELLO")("Hello")
    assert is_refusal(REFUSAL)
    assert not is_refusal("I cannot do that.")


def test_a_tenth_of_the_open_prompts_is_kept_unseen() -> None:
    assert not set(PROMPTS) & set(UNSEEN)
    assert 0.03 < len(UNSEEN) / (len(PROMPTS) + len(UNSEEN)) < 0.2
    assert all(is_held_out(prompt) for prompt in UNSEEN)


@pytest.mark.parametrize("fact", facts.facts(), ids=lambda fact: fact.id)
def test_facts_name_only_commands_that_exist(fact: facts.Fact) -> None:
    assert facts.commands_in(fact.answer) <= COMMANDS.keys()
    if fact.command:
        assert fact.command.split()[0] in COMMANDS
    assert all(needed in fact.answer for needed in fact.must)
    assert fact.must


def test_every_command_of_the_table_of_facts_is_a_known_one() -> None:
    planned = {"engine", "arena", "chats", "train", "eval", "bench"}
    for fact in facts.all_facts():
        assert facts.commands_in(fact.answer) <= COMMANDS.keys() | planned, fact.id


def test_flags_and_slash_commands_in_the_facts_exist() -> None:
    sources = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "fcd" / "cli").rglob("*.py"))
    for fact in facts.facts():
        for flag in re.findall(r"(?<![\w-])--[a-z0-9][a-z0-9-]+", fact.answer):
            assert flag == "--help" or f'"{flag}"' in sources, (fact.id, flag)
        if fact.id != "health":
            for name in re.findall(r"(?<![\w/.:])/[a-z]+(?![\w/])", fact.answer):
                assert name in SLASHES, (fact.id, name)
