"""A node that holds a part of a vLLM and has no server: finds the model, waits for the first node's word, runs it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Mapping
from functools import partial

import msgspec
from msgspec.structs import replace

from daemon.worker.child.process import Child
from daemon.worker.child.program import NOT_FOR_SERVERS, how_it_ended
from daemon.worker.program import Locate
from daemon.worker.report import Reporter
from daemon.worker.vllm.failures import explain
from daemon.worker.vllm.group import Follow, Part, follower_argv, interfaces, part_environment
from daemon.worker.vllm.stages import new_start, read_line
from fcd.engines import EngineInfo
from fcd.errors import EXIT_FAILED, EXIT_OK, FcdError, ModelLoadError
from fcd.wire.admin import Progress

_LOG_LINES = 400
_STOP_GRACE_S = 10.0
_LEAVE_S = 15.0


class FollowerProgram:
    """One part of a vLLM, from finding the model to the exit code. It starts vLLM once, and ends with it.

    It reads one line from stdin, the first node's `Follow`, and ends when stdin does. `ready` says that the model is
    here and vLLM can be started.

    Args:
        engine: where vLLM is; blocks.
        env: the model's own environment variables, over those of the engine.
        locate: finds, or downloads, the model's folder; blocks.
    """

    def __init__(
        self,
        part: Part,
        *,
        locate: Locate,
        engine: Callable[[], EngineInfo],
        env: Mapping[str, str],
        reporter: Reporter,
    ) -> None:
        self._part = part
        self._locate = locate
        self._engine = engine
        self._env = dict(env)
        self._reporter = reporter
        self._child = Child(self._wrote, keep=_LOG_LINES)
        self._start = new_start()
        self._stop = asyncio.Event()
        self._told = asyncio.get_running_loop().create_future()

    async def run(self) -> int:
        """Run until vLLM has ended, or this is told to; the exit code."""
        self._watch()
        running = asyncio.create_task(self._follow())
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        code = EXIT_OK
        if running.done() and not self._stop.is_set():
            self._reporter.error(_reason(running.exception()))
            code = EXIT_FAILED
        running.cancel()
        stopping.cancel()
        await asyncio.gather(running, stopping, return_exceptions=True)
        await self._child.stop(signal.SIGTERM, _STOP_GRACE_S)
        return code

    async def _follow(self) -> None:
        """Ends by raising only.

        Raises:
            ModelLoadError: vLLM cannot be started here, or has ended, with the cause.
        """
        self._progress(Progress("looking for the model"))
        folder = await asyncio.to_thread(self._locate, self._progress)
        info = await asyncio.to_thread(self._engine)
        if not info.runnable:
            raise ModelLoadError(f"vLLM cannot run here. {info.reason}")
        self._reporter.ready("", f"Node {self._part.rank + 1} of {self._part.nodes} waits for the first.")
        follow: Follow = await self._told
        if follow.version and info.version and follow.version != info.version:
            raise ModelLoadError(
                f"This node has vLLM {info.version}, and the first one {follow.version}.",
                hint=f"All need the same: `fcd engine install vllm --version {follow.version}` here.",
            )
        part = replace(self._part, port=follow.port, words=follow.words)
        self._progress(self._start.stage)
        await self._start_vllm(follower_argv(info.command, str(folder), part), info.env | self._env, part)
        code = await self._child.wait()
        raise ModelLoadError(str(explain(list(self._child.lines), how_it_ended(code))))

    async def _start_vllm(self, argv: list[str], env: dict[str, str], part: Part) -> None:
        inherited = {name: value for name, value in os.environ.items() if name not in NOT_FOR_SERVERS}
        given = inherited | env
        try:
            await self._child.start(argv, given | part_environment(part, given, interfaces()), private=True)
        except OSError as error:
            raise ModelLoadError(f"{argv[0]} cannot be started: {error}.") from None

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        threading.Thread(target=self._read, args=(loop,), name="fcd-parent", daemon=True).start()

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread: the word, then the end of whoever gives it."""
        rest = b""
        while data := _read_some():
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                loop.call_soon_threadsafe(partial(self._tell, msgspec.json.decode(line, type=Follow)))
        loop.call_soon_threadsafe(self._stop.set)
        # Whatever holds the loop up: a worker does not outlive the one that started it.
        threading.Event().wait(_LEAVE_S)
        os._exit(1)

    def _tell(self, follow: Follow) -> None:
        if not self._told.done():
            self._told.set_result(follow)

    def _wrote(self, line: str) -> None:
        if read_line(self._start, line):
            self._progress(self._start.stage)

    def _progress(self, progress: Progress) -> None:
        self._reporter.progress(progress)


def _read_some() -> bytes:
    try:
        return os.read(0, 65536)
    except OSError:
        return b""


def _reason(error: BaseException | None) -> str:
    return str(error) if isinstance(error, FcdError) else f"{type(error).__name__}: {error}"
