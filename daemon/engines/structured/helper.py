"""A small process that tries a grammar out before the worker compiles it, so that a bad one can be killed.

It reads and writes frames (four bytes of length, then JSON). The first frame sets it up; each other one is a grammar
to try, and gets one answer. It ends when its input ends, when a trial takes too long, or after a time without work.
Run as `python -m daemon.engines.structured.helper`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import select
import signal
import struct
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from daemon.engines.structured.ebnf import repair

IDLE_S = 600
MEMORY_BYTES = 2 << 30
"""Address space that a trial may take beside what the process holds already."""
WALKS = 3
STEPS = 32
SLOW_STEP_S = 0.04
"""CPU time of one mask, on average, from which a grammar would hold up everybody's tokens."""
SLOWEST_STEP_S = 0.3
"""The same, of any one mask."""


class Refused(Exception):
    """The grammar cannot be used. `schema` is the position of the schema at fault, None for all of them."""

    def __init__(self, message: str, schema: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.schema = schema


def load_core() -> Any:
    """xgrammar's native functions without its Python front, which would bring torch and transformers with it."""
    sys.modules["torch"] = None  # type: ignore[assignment]
    spec = importlib.util.find_spec("xgrammar")
    assert spec is not None
    package = types.ModuleType("xgrammar")
    package.__path__ = list(spec.submodule_search_locations or ())
    package.__spec__ = spec
    sys.modules["xgrammar"] = package
    importlib.import_module("xgrammar.exception")
    importlib.import_module("xgrammar.load_binding")
    return importlib.import_module("xgrammar.base")._core


class Trials:
    """Compiles grammars for one tokenizer and walks through them."""

    def __init__(self, core: Any, tokenizer: str) -> None:
        self._core = core
        self._info = core.TokenizerInfo.deserialize_json(tokenizer)
        self._compiler = core.GrammarCompiler(self._info, 1, False, -1)

    def run(self, form: Any, schemas: list[dict[str, Any]]) -> dict[str, Any]:
        """Give the structural tag to compile for real, and how large it becomes.

        Raises:
            Refused: with the reason.
        """
        texts = [self._grammar_of(schema, position) for position, schema in enumerate(schemas)]
        tag = json.dumps({"type": "structural_tag", "format": _filled(form, texts)})
        try:
            compiled = self._compiler.compile_structural_tag(tag)
        except (RuntimeError, MemoryError) as error:
            raise Refused(_reason(error), 0 if len(schemas) == 1 else None) from None
        self._walk(compiled)
        return {"tag": tag, "bytes": int(compiled.memory_size_bytes())}

    def _grammar_of(self, schema: dict[str, Any], position: int) -> str:
        text = json.dumps(schema["schema"])
        try:
            with _captured() as said:
                grammar = self._core.Grammar.from_json_schema(text, True, None, None, True, None, False, False)
        except (RuntimeError, MemoryError) as error:
            raise Refused(_reason(error), position) from None
        if schema["strict"] and said():
            raise Refused(f"{said()}, and the schema is strict", position)
        return repair(str(grammar.to_string()))

    def _walk(self, compiled: Any) -> None:
        """Choose allowed tokens at random for a while: an empty choice or a slow one shows here, not in a batch."""
        import numpy as np

        bits = np.zeros((1, (self._info.vocab_size() + 31) // 32), np.int32)
        spent: list[float] = []
        for seed in range(WALKS):
            choose = random.Random(seed)
            matcher = self._core.GrammarMatcher(compiled, None, not self._info.stop_token_ids(), -1, None)
            for _ in range(STEPS):
                if matcher.is_terminated():
                    break
                began = time.thread_time()
                matcher.fill_next_token_bitmask(bits, 0, False)
                spent.append(time.thread_time() - began)
                token = _any_allowed(bits[0], choose)
                if token is None:
                    raise Refused("no answer that this model can write satisfies it")
                if spent[-1] > SLOWEST_STEP_S or not matcher.accept_token(token, False):
                    break
        if sum(spent) / len(spent) > SLOW_STEP_S or max(spent) > SLOWEST_STEP_S:
            raise Refused("following it takes too long for each token")


def _any_allowed(bits: Any, choose: random.Random) -> int | None:
    """One of the tokens whose bits are set."""
    words = bits.nonzero()[0]
    if not len(words):
        return None
    word = int(choose.choice(words))
    value = int(bits[word]) & 0xFFFFFFFF
    return word * 32 + choose.choice([bit for bit in range(32) if value >> bit & 1])


def _filled(form: Any, texts: list[str]) -> Any:
    """The format with every schema's place taken by its grammar."""
    if isinstance(form, dict):
        if form.get("type") == "schema":
            return {"type": "grammar", "grammar": texts[form["index"]]}
        return {name: _filled(value, texts) for name, value in form.items()}
    if isinstance(form, list):
        return [_filled(value, texts) for value in form]
    return form


def _reason(error: BaseException) -> str:
    """xgrammar's message without its time and place."""
    if isinstance(error, MemoryError):
        return "compiling it needs too much memory"
    line = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
    line = line.rsplit("Error: ", 1)[-1]
    if line.startswith("[") and ": " in line:
        line = line.split(": ", 1)[1]
    return "compiling it needs too much memory" if "bad_alloc" in line else line[:300]


@contextmanager
def _captured() -> Iterator[Callable[[], str]]:
    """What native code writes to stderr: that is where xgrammar says what it leaves out of a grammar."""
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        text = ""
        try:
            yield lambda: text
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            lines = file.read(65536).decode(errors="replace").splitlines()
            text = next((line.split("Warning: ", 1)[1] for line in lines if "Warning: " in line), "")


def read_frame(stream: BinaryIO) -> Any:
    """The next frame; None at the end of the input."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    (length,) = struct.unpack(">I", head)
    body = stream.read(length)
    return json.loads(body) if len(body) == length else None


def write_frame(stream: BinaryIO, value: Any) -> None:
    body = json.dumps(value).encode()
    stream.write(struct.pack(">I", len(body)) + body)
    stream.flush()


def _limit_memory() -> None:
    """Where the system can: a grammar that explodes must fail here and take nothing else down."""
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            held = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY_BYTES, held + MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, OSError, ValueError):
        return


def main() -> None:
    """Serve trials until there is nothing more to do."""
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    setup = read_frame(source)
    if setup is None:
        return
    trials = Trials(load_core(), setup["tokenizer"])
    _limit_memory()
    write_frame(sink, {"ready": True})
    while select.select([source], [], [], IDLE_S)[0]:
        asked = read_frame(source)
        if asked is None:
            return
        # The alarm's default action ends the process, also inside native code, and also when nobody else is left.
        signal.setitimer(signal.ITIMER_REAL, asked["limit_s"] + 1.0)
        try:
            answer = {"ok": True, **trials.run(asked["format"], asked["schemas"])}
        except Refused as refused:
            answer = {"ok": False, "message": refused.message, "schema": refused.schema}
        except RecursionError:
            answer = {"ok": False, "message": "it is nested too deeply", "schema": None}
        signal.setitimer(signal.ITIMER_REAL, 0)
        write_frame(sink, answer)


if __name__ == "__main__":
    main()
