"""lm-evaluation-harness, asking the daemon and loading the same model itself: the numbers have to be equal."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fcd.builtin import builtin_path
from tests.e2e.harness import Home, chat
from tests.e2e.peers import peer_python

pytestmark = pytest.mark.slow

CITIES = ("Paris", "Rome", "Berlin")
DAYS = ("Monday", "Wednesday", "Sunday")
ITEMS: list[dict[str, Any]] = [
    {
        "question": "What is the capital of France?",
        "choices": [f"The capital of France is {c}." for c in CITIES],
        "answer": 0,
    },
    {"question": "What comes after Tuesday?", "choices": [f"After Tuesday comes {day}." for day in DAYS], "answer": 1},
    {"question": "What is 12 + 30?", "choices": ["12 + 30 = 41", "12 + 30 = 52", "12 + 30 = 42"], "answer": 2},
    {"question": "Spell cat.", "choices": ["d-o-g", "c-a-t", "b-a-t"], "answer": 1},
]
TURN = "<|im_start|>user\n{{question}}<|im_end|>\n<|im_start|>assistant\n"
COMMON = """
dataset_path: json
dataset_kwargs:
  data_files:
    test: {items}
test_split: test
"""
CHOICES = 'task: fcd_choices\noutput_type: multiple_choice\ndoc_to_text: "{turn}"\n' + (
    'doc_to_choice: "{{{{choices}}}}"\ndoc_to_target: "{{{{answer}}}}"\n'
    "metric_list:\n  - metric: acc\n  - metric: acc_norm\n"
)
LIKELIHOOD = 'task: fcd_likelihood\noutput_type: loglikelihood\ndoc_to_text: "{turn}"\n' + (
    'doc_to_target: "{{{{choices[answer]}}}}"\nmetric_list:\n  - metric: perplexity\n  - metric: acc\n'
)


def write_tasks(folder: Path) -> Path:
    items = folder / "items.jsonl"
    items.write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    turn = TURN.replace("\n", "\\n")
    for name, text in (("choices", CHOICES), ("likelihood", LIKELIHOOD)):
        (folder / f"{name}.yaml").write_text(text.format(turn=turn) + COMMON.format(items=items))
    return folder


def evaluate(python: Path, tasks: Path, *model: str) -> dict[str, dict[str, float]]:
    """One run of the harness; the metrics of each task."""
    output = tasks / model[1]
    done = subprocess.run(
        [
            *(str(python), "-m", "lm_eval", "run", *model),
            *("--tasks", "fcd_choices,fcd_likelihood", "--include_path", str(tasks), "--output_path", str(output)),
        ],
        capture_output=True,
        text=True,
        cwd=tasks,
        timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tasks / "hub")},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(next(output.rglob("results_*.json")).read_text())["results"]
    return {
        task: {name: value for name, value in row.items() if name.endswith(",none") and "stderr" not in name}
        for task, row in results.items()
    }


def test_the_harness_finds_the_same_numbers_here_as_in_its_own_model(shared_daemon: Home, tmp_path: Path) -> None:
    python = peer_python("lm-eval", ("lm_eval[api]==0.4.13",))
    chat(shared_daemon.url, "Hello")
    tasks = write_tasks(tmp_path)
    folder = builtin_path("guide")
    served = f"model=guide,base_url={shared_daemon.url}/v1/completions,tokenizer={folder},num_concurrent=4"
    ours = evaluate(python, tasks, "--model", "local-completions", "--model_args", f"{served},max_length=2048")
    theirs = evaluate(
        python, tasks, "--model", "hf", "--model_args", f"pretrained={folder},dtype=float32", "--device", "cpu"
    )
    assert ours.keys() == theirs.keys() == {"fcd_choices", "fcd_likelihood"}
    for task, metrics in theirs.items():
        assert ours[task] == pytest.approx(metrics, rel=1e-4), task
    assert theirs["fcd_choices"]["acc,none"] >= 0.75
