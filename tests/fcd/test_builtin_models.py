"""The shipped folders: complete, small, loadable, and able to do what they promise."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from fcd import builtin

FILES = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
}


def test_names_and_paths() -> None:
    assert set(builtin.NAMES) == {"guide", "guide-mini"}
    assert builtin.DEFAULT == "guide"
    assert builtin.is_builtin("guide-mini")
    assert not builtin.is_builtin("gpt2")
    assert builtin.describe("guide")
    with pytest.raises(KeyError):
        builtin.builtin_path("gpt2")


def test_names_cost_no_torch() -> None:
    code = "import sys, fcd.builtin; sys.exit(bool({'torch', 'transformers', 'numpy'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", builtin.NAMES)
def test_folders_are_complete_and_small(name: str) -> None:
    folder = builtin.builtin_path(name)
    assert {file.name for file in folder.iterdir()} == FILES
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "llama"
    assert config["max_position_embeddings"] == builtin.CONTEXT_LENGTH
    assert config["head_dim"] == 64
    assert config["dtype"] == "bfloat16"
    assert config["tie_word_embeddings"] is True


def test_all_models_together_stay_under_twenty_five_megabytes() -> None:
    def size(name: str) -> int:
        return sum(file.stat().st_size for file in builtin.builtin_path(name).iterdir())

    assert size("guide") < 20_000_000
    assert size("guide-mini") < 6_000_000


@pytest.mark.parametrize("name", builtin.NAMES)
def test_tokenizers_round_trip_any_text_and_write_the_template(name: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(builtin.builtin_path(name)))
    for text in ("Hello, world!", "  two  spaces\n\n\ttab", "Ærø 日本語 🙂", "12345", "\x00\x7f"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    messages = [{"role": "system", "content": "You are Ada."}, {"role": "user", "content": "Hi"}]
    written = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert written == (
        "<|im_start|>system\nYou are Ada.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.eos_token == "<|im_end|>"


def test_training_tokens_are_those_of_the_template() -> None:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    from fcd.builtin.generator.base import letters
    from fcd.builtin.tokenizer import Encoder

    folder = builtin.builtin_path("guide")
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    encoder = Encoder(Tokenizer.from_file(str(folder / "tokenizer.json")))
    ids, mask = encoder.exchange("Spell nose.", "ok then")
    messages = [{"role": "user", "content": "Spell nose."}, {"role": "assistant", "content": "ok then"}]
    assert ids == tokenizer.apply_chat_template(messages)["input_ids"]
    learned = [token for token, counts in zip(ids, mask, strict=True) if counts]
    assert tokenizer.decode(learned) == "ok then<|im_end|>"
    spelled, marks = encoder.exchange("Spell nose.", letters("nose"))
    assert [tokenizer.decode([t]) for t, m in zip(spelled, marks, strict=True) if m] == [*"nose", "<|im_end|>"]


QUESTIONS = [
    (["What is 12 + 7?"], "19"),
    (["What is the capital of France?"], "Paris"),
    (["How do I download a model?"], "fcd pull"),
    (["What is the opposite of hot?"], "cold"),
    (["Reverse the word apple."], "elppa"),
    (["My name is Clara.", "Nice to meet you, Clara.", "3 * 4", "3 × 4 = 12", "What is my name?"], "Clara"),
    (["Write a poem about the sea."], "fcd "),
    (["Which day comes after Monday?"], "Tuesday"),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", builtin.NAMES)
def test_the_models_answer(name: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = builtin.builtin_path(name)
    tokenizer = AutoTokenizer.from_pretrained(str(folder), padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    chats = [
        [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]
        for texts, _ in QUESTIONS
    ]
    inputs = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True
    )
    with torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=64, do_sample=False)
    answers = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    wrong = [
        (texts[-1], answer) for (texts, needed), answer in zip(QUESTIONS, answers, strict=True) if needed not in answer
    ]
    assert not wrong
