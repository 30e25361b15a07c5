"""The worker's side of the helper process: one trial at a time, each with a limit; a stuck one is killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

START_S = 20.0
"""Reading the libraries and the vocabulary; nothing that a request can lengthen."""
_MORE_S = 0.2
"""What each schema beyond the first may add to a trial: large sets of tools are common."""
_LONGEST_S = 10.0
_ROOT = str(Path(__file__).resolve().parents[3])


class TrialFailed(Exception):
    """The grammar was refused. `schema` is the position of the schema at fault, None when that is not known."""

    def __init__(self, message: str, schema: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.schema = schema


class Passed(msgspec.Struct, frozen=True):
    """A grammar that was tried: the structural tag to compile, and the bytes that it takes."""

    tag: str
    bytes: int


class Trier:
    """Holds one helper process, started when it is first needed.

    Args:
        tokenizer: the tokenizer as `xgrammar.TokenizerInfo.serialize_json` writes it.
        limit_s: how long the trial of one schema may take.
    """

    def __init__(self, tokenizer: str, limit_s: float) -> None:
        self._tokenizer = tokenizer
        self._limit_s = limit_s
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def run(self, form: Any, schemas: Sequence[dict[str, Any]]) -> Passed:
        """Try a grammar.

        Raises:
            TrialFailed: it cannot be compiled, takes too long or too much memory, or crashes the compiler.
            OSError: the helper cannot be started.
        """
        limit = max(self._limit_s, min(self._limit_s + _MORE_S * (len(schemas) - 1), _LONGEST_S))
        async with self._turn:
            process = await self._ready()
            try:
                asked = {"format": form, "schemas": list(schemas), "limit_s": limit}
                answer = await asyncio.wait_for(_ask(process, asked), limit)
            except TimeoutError:
                await self._kill()
                raise TrialFailed(f"compiling it takes longer than {limit:.1f} s") from None
            except (OSError, asyncio.IncompleteReadError):
                await self._kill()
                raise TrialFailed("compiling it crashes the compiler") from None
            except BaseException:
                # Cancelled between question and answer: the next reader would get this one's answer.
                await asyncio.shield(self._kill())
                raise
        if not answer["ok"]:
            raise TrialFailed(answer["message"], answer["schema"])
        return Passed(answer["tag"], answer["bytes"])

    async def close(self) -> None:
        """End the process."""
        await self._kill()

    async def _ready(self) -> asyncio.subprocess.Process:
        process = self._process
        # A helper that was idle for long has left.
        if process is not None and process.returncode is None and not (process.stdout and process.stdout.at_eof()):
            return process
        await self._kill()
        paths = [_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        process = self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            f"{__package__}.helper",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
        )
        try:
            await asyncio.wait_for(_ask(process, {"tokenizer": self._tokenizer}), START_S)
        except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            await self._kill()
            raise OSError(f"the grammar compiler's process did not start: {type(error).__name__}") from error
        return process

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()


async def _ask(process: asyncio.subprocess.Process, value: Any) -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    body = json.dumps(value).encode()
    process.stdin.write(struct.pack(">I", len(body)) + body)
    await process.stdin.drain()
    (length,) = struct.unpack(">I", await process.stdout.readexactly(4))
    return json.loads(await process.stdout.readexactly(length))
