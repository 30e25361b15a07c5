"""xgrammar asks for triton when it is installed; nothing that is used here may need it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import asyncio, sys
sys.modules["triton"] = None  # importing it fails
import torch
from daemon.engines.base import GrammarSpec, SchemaSource
from daemon.engines.structured.compiler import StructuredCompiler
from daemon.engines.transformers.masks import apply_masks, narrow_on_device
from tests.tiny_models import VOCABULARY, make_tokenizer

async def main():
    compiler = StructuredCompiler(make_tokenizer(), VOCABULARY, (2,))
    try:
        schema = SchemaSource({"const": 7}, "p")
        grammar = await compiler.compile(GrammarSpec({"type": "schema", "index": 0}, (schema,)))
    finally:
        await compiler.close()
    logits = torch.zeros(1, VOCABULARY)
    apply_masks(logits, [0], [grammar.start()])
    print(int(torch.isfinite(logits).sum()))

asyncio.run(main())
"""


def test_schemas_are_enforced_without_it() -> None:
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert 1 <= int(done.stdout.split()[-1]) < 10
