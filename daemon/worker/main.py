"""From a worker's options to its exit code: finds the model, picks the engine, runs the loop."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from daemon.access import is_loopback
from daemon.engines.base import Engine, LoadOptions, LoadProgress
from daemon.worker.options import WorkerOptions
from daemon.worker.parent import die_with_parent
from daemon.worker.profiles import Profiles
from daemon.worker.program import Program
from daemon.worker.report import Reporter, take_stdout
from fcd.catalog import Reference, ensure_local, resolve
from fcd.engines import EngineInfo
from fcd.errors import EXIT_FAILED, FcdError, UsageError
from fcd.settings import Settings
from fcd.wire.admin import ModelOptions, Progress


def run_worker(options: WorkerOptions, settings: Settings) -> int:
    """Run a worker until it ends; the exit code.

    Raises:
        FcdError: the model's name means nothing here, or an option cannot be used.
    """
    events = take_stdout() if options.watched else None
    if options.watched:
        die_with_parent()
    _configure_logging(settings.daemon.log_level)
    reference = find_reference(options, settings)
    wanted = merge_options(reference.options, options.model_options)
    if wanted.engine != "vllm":
        _check_flags(wanted)
    program_options = _with_model_options(options, wanted)
    names = served_names(list(options.names) or default_names(reference, wanted), wanted)
    reporter = Reporter(events=events)
    if wanted.engine == "command" and wanted.lora_modules:
        raise UsageError("--lora-modules is for models that an engine here runs; give them to the command itself.")
    if wanted.engine == "command":
        return _run_command(program_options, reference, settings, names, reporter)
    if wanted.engine == "vllm":
        return _run_vllm(program_options, reference, settings, names, reporter)

    def locate(progress: Callable[[Progress], None]) -> Path:
        return ensure_local(reference, progress)

    async def main() -> int:
        program = Program(
            program_options,
            names=names,
            locate=locate,
            load=_load_engine,
            load_options=load_options(program_options, settings),
            reporter=reporter,
            comment_s=settings.daemon.sse_comment_s,
            profiles=Profiles(settings),
        )
        return await program.run()

    code = _run_loop(main)
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        # Pool threads would be waited for, and a load that was given up ends only with the process.
        sys.stderr.flush()
        os._exit(code)
    return code


def find_reference(options: WorkerOptions, settings: Settings) -> Reference:
    """What the model's name means; with a command of one's own it may be anything, since the command alone reads it.

    Raises:
        ApiError: the name means nothing here.
    """
    if not options.command or options.model in settings.models:
        return resolve(options.model, settings, revision=options.model_options.revision)
    path = Path(options.model).expanduser()
    if path.exists():
        return Reference(name=path.stem or path.name, kind="command", path=path.absolute())
    return Reference(name=options.model, kind="command", repo=options.model)


def _run_command(
    options: WorkerOptions, reference: Reference, settings: Settings, names: list[str], reporter: Reporter
) -> int:
    """A worker whose engine is a program of its own."""
    from daemon.worker.command.program import CommandProgram
    from daemon.worker.command.spec import command_for

    exposed = not is_loopback(options.host)
    try:
        spec = command_for(reference, settings, options.command, exposed=exposed and bool(options.api_key))
    except FcdError as error:
        reporter.error(str(error))
        return EXIT_FAILED

    async def main() -> int:
        comment_s = settings.daemon.sse_comment_s
        return await CommandProgram(options, spec, names=names, reporter=reporter, comment_s=comment_s).run()

    return _run_loop(main)


def _run_vllm(
    options: WorkerOptions, reference: Reference, settings: Settings, names: list[str], reporter: Reporter
) -> int:
    """A worker whose engine is vLLM's own server."""
    from daemon.worker.vllm.arguments import check_passed_on
    from daemon.worker.vllm.follower import FollowerProgram
    from daemon.worker.vllm.group import read_part
    from daemon.worker.vllm.program import VllmProgram
    from fcd.engines import find_engine
    from fcd.paths import resolve_paths

    check_passed_on(options.model_options.engine_args)
    paths = resolve_paths()
    paths.create()
    part = read_part(os.environ)
    env = settings.models[reference.name].env if reference.name in settings.models else {}

    def locate(progress: Callable[[Progress], None]) -> Path:
        return ensure_local(reference, progress)

    def engine() -> EngineInfo:
        return find_engine("vllm", settings, paths=paths)

    async def main() -> int:
        if part is not None and part.rank:
            return await FollowerProgram(part, locate=locate, engine=engine, env=env, reporter=reporter).run()
        program = VllmProgram(
            options,
            names=names,
            locate=locate,
            engine=engine,
            env=env,
            sockets=paths.sockets,
            reporter=reporter,
            comment_s=settings.daemon.sse_comment_s,
            stall_s=settings.engines.vllm.stall_s,
            part=part,
        )
        return await program.run()

    return _run_loop(main)


def _check_flags(options: ModelOptions) -> None:
    """Raises UsageError for what only vLLM understands."""
    given = {
        "--tokenizer": options.tokenizer,
        "--quantization": options.quantize_with,
        "--gpu-memory-utilization": options.gpu_memory_utilization,
        "--max-model-len": options.max_model_len,
        "--trust-remote-code": options.trust_remote_code,
        "What follows `--`": options.engine_args,
    }
    for flag, value in given.items():
        if value:
            raise UsageError(f"{flag} is for vLLM.", hint="Add --engine vllm, or leave it out.")


def merge_options(configured: ModelOptions, flags: ModelOptions) -> ModelOptions:
    """Flags over what config.toml and the model's name say; adapters of both."""
    values = {name: getattr(flags, name) or getattr(configured, name) for name in ModelOptions.__struct_fields__}
    values["lora_modules"] = {**configured.lora_modules, **flags.lora_modules}
    return ModelOptions(**values)


def served_names(names: list[str], options: ModelOptions) -> list[str]:
    """The model's own names, then those of its adapters.

    Raises:
        UsageError: an adapter has the only name that the model has.
    """
    own = [name for name in names if name not in options.lora_modules]
    if not own:
        raise UsageError(f"The adapter '{names[0]}' has the model's own name.", hint="Give it another: --lora-modules.")
    return [*own, *options.lora_modules]


def default_names(reference: Reference, options: ModelOptions) -> list[str]:
    """What requests call the model when no names were given."""
    if options.model_names:
        return list(options.model_names)
    if reference.kind == "folder" and not reference.configured and reference.path is not None:
        return [reference.path.resolve().name]
    return [reference.name]


def load_options(options: WorkerOptions, settings: Settings) -> LoadOptions:
    """The engine's options: flags over config.toml; `auto` is left to the engine."""
    wanted, defaults = options.model_options, settings.worker
    return LoadOptions(
        path="",
        device=_unless_auto(wanted.device or defaults.device),
        dtype=_unless_auto(wanted.dtype or defaults.dtype),
        quantization=wanted.quantization,
        num_gpus=wanted.num_gpus,
        gpus=wanted.gpus,
        max_gpu_memory=wanted.max_gpu_memory,
        max_batch=options.concurrency or defaults.max_batch,
        max_waiting=defaults.max_waiting,
        kv_bytes=defaults.kv_bytes or options.kv_bytes,
        lora_modules=wanted.lora_modules,
    )


def _unless_auto(value: str) -> str:
    return "" if value == "auto" else value


def _with_model_options(options: WorkerOptions, wanted: ModelOptions) -> WorkerOptions:
    from msgspec.structs import replace

    return replace(options, model_options=wanted)


async def _load_engine(options: LoadOptions, progress: LoadProgress) -> Engine:
    progress("starting the engine", 0.0, 0.0)
    transformers_engine = await asyncio.to_thread(_import_engine)
    return await transformers_engine(options, progress)


def _import_engine() -> Callable[[LoadOptions, LoadProgress], Awaitable[Engine]]:
    """Importing torch takes seconds: it happens beside the loop, which goes on answering."""
    import daemon.engines.transformers as package
    import daemon.engines.transformers.build as _build

    assert _build is not None
    return package.load_engine


def _configure_logging(level: str) -> None:
    logging.basicConfig(
        stream=sys.stderr, level=level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", force=True
    )
    for chatty in ("httpx", "httpx2", "httpcore", "asyncio", "urllib3", "filelock", "sanic.server"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _run_loop(main: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Not asyncio.run: it would wait for a load under way, which cannot be interrupted."""
    try:
        import uvloop

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    except ImportError:
        loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop.run_until_complete(main())
