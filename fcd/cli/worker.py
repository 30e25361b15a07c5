"""`fcd worker`: run a model here or on another machine, and look after those that the daemon runs."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fcd.cli.command import Group, Parser, add_json, run_subcommand
from fcd.cli.model_flags import add_model_flags, for_daemon, model_options, positive
from fcd.cli.output import note, print_json
from fcd.cli.placing import TIMEOUT_S, add_place_flags, follow_placed, place_request, say_placed
from fcd.cli.secret_file import read_secret
from fcd.errors import EXIT_OK, FcdError, NotFound, UsageError

if TYPE_CHECKING:
    from daemon.worker.options import WorkerOptions
    from fcd.client import Client
    from fcd.wire.admin import WorkerInfo

_FOLLOW_S = 1.0
_LOCAL_BEAT_S = 2.0
"""How often a worker tells the daemon of its own machine its figures."""


def add_arguments(parser: Parser) -> None:
    group = Group(parser)
    _add_run(group)
    start = group.add("start", "load a model into the daemon, in a worker of its own", _start)
    start.add_argument("model", metavar="MODEL", help="a name, a folder or a repo")
    start.add_argument(
        "--replicas", type=int, default=0, metavar="N", help="how many workers (default: as config.toml says, or 1)"
    )
    add_place_flags(start)
    add_model_flags(start)
    add_json(start)
    for name, summary, handler in (
        ("stop", "stop a worker once its running requests have ended", _stop),
        ("restart", "start a worker again, a failed one too", _restart),
    ):
        _named(group.add(name, summary, handler))
    _add_attach(group)
    _named(group.add("detach", "forget a server that was attached", _detach))
    listing = group.add("list", "list the workers", _list)
    add_json(listing)
    show = _named(group.add("show", "say everything about one worker", _show))
    add_json(show)
    logs = _named(group.add("logs", "print a worker's log", _logs))
    logs.add_argument("-f", "--follow", action="store_true", help="go on printing what is added")
    logs.add_argument("-n", "--lines", type=int, default=200, metavar="N", help="how many lines (default: 200)")


run = run_subcommand


def _add_run(group: Group) -> None:
    parser = group.add(
        "run",
        "run a worker in the foreground",
        _run,
        description="Run a model in the foreground, on any machine, and register it at a controller.",
        epilog="FCD_JOIN_TOKEN may hold the join token; --token-file keeps it out of the process list.",
    )
    parser.add_argument("name", nargs="?", default="", metavar="MODEL", help="a built-in name, a folder or a repo")
    parser.add_argument("--model-path", default="", metavar="MODEL", help="the same, as FastChat spells it")
    parser.add_argument(
        "--controller",
        "--controller-address",
        action="append",
        default=[],
        metavar="URL",
        help="where to register; may be given several times, and may carry /join/TOKEN",
    )
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="file that holds the join token")
    parser.add_argument("--no-register", action="store_true", help="serve by itself, without a controller")
    parser.add_argument(
        "--host", default="", metavar="HOST", help="where it listens (default: where its controllers reach it alone)"
    )
    parser.add_argument("--port", type=_port, default=0, metavar="N", help="its port; 0 takes a free one (default: 0)")
    parser.add_argument("--socket", default="", metavar="PATH", help="listen on this unix socket as well")
    parser.add_argument("--worker-address", default="", metavar="URL", help="how controllers reach it")
    parser.add_argument("--worker-id", default="", metavar="NAME", help="what the supervisor calls it")
    parser.add_argument("--model-names", default="", metavar="A,B", help="names that requests call it by")
    parser.add_argument(
        "--command",
        dest="engine_command",
        default="",
        metavar="WORDS",
        help='the command engine\'s server, such as "server -m {model} --port {port}" (also {host}, {name}, {key})',
    )
    parser.add_argument(
        "--limit-worker-concurrency", type=int, default=0, metavar="N", help="completions that run at once"
    )
    parser.add_argument(
        "--kv-bytes", type=positive, default=0, metavar="N", help="memory for the KV cache (default: by what is free)"
    )
    parser.add_argument(
        "--open",
        action="store_true",
        help="beyond loopback, take requests without a key, as FastChat does",
    )
    add_model_flags(parser)


def _add_attach(group: Group) -> None:
    parser = group.add(
        "attach",
        "use a server that speaks OpenAI's routes as a worker",
        _attach,
        description="Use a server that speaks OpenAI's routes as a worker: llama.cpp, SGLang, Ollama, vLLM, a hosted"
        " one. The daemon asks it for its models, remembers it over restarts, and never follows its redirects.",
        epilog="Example: fcd worker attach https://api.example.com --model big=vendor/big-1 --key-file key.txt",
    )
    parser.add_argument("url", metavar="URL", help="its base URL, with or without /v1")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="[NAME=]MODEL",
        help="use this model of it, under another name if one is given; may be repeated (default: all that it lists)",
    )
    parser.add_argument("--name", default="", metavar="NAME", help="what the worker is called (default: host and port)")
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="file that holds the key that the server wants")
    parser.add_argument(
        "--vision",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="its models see images, or do not (default: as far as the server says)",
    )
    add_json(parser)


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError("a port is between 0 and 65535")
    return port


def _run(args: argparse.Namespace) -> int:
    from daemon.worker.main import run_worker
    from fcd.paths import resolve_paths
    from fcd.settings import load_settings, read_snapshot

    left = os.environ.get("FCD_SETTINGS_FILE", "")
    settings = read_snapshot(Path(left)) if left else load_settings(resolve_paths().config_file)
    heartbeat_s = settings.worker.heartbeat_s
    if os.environ.get("FCD_PARENT_WATCH") == "1":
        heartbeat_s = min(heartbeat_s, _LOCAL_BEAT_S)
    options = read_run_options(args, heartbeat_s=heartbeat_s, drain_s=settings.daemon.drain_s)
    return run_worker(options, settings)


def read_run_options(args: argparse.Namespace, *, heartbeat_s: float, drain_s: float) -> WorkerOptions:
    """The worker's options from its flags and environment.

    Raises:
        UsageError: what was given does not go together.
    """
    import secrets

    from msgspec.structs import replace

    from daemon.access import is_loopback
    from daemon.worker.address import listening_host
    from daemon.worker.options import WorkerOptions
    from fcd.templates import get_template

    model = args.name or args.model_path
    if not model or (args.name and args.model_path):
        raise UsageError("fcd worker run needs one MODEL.", hint="Example: fcd worker run guide --no-register")
    controllers = tuple(args.controller)
    if bool(controllers) == args.no_register:
        raise UsageError(
            "Say where the worker belongs: --controller URL, or --no-register.",
            hint="Example: fcd worker run guide --controller http://127.0.0.1:8000 --token-file FILE",
        )
    for url in (*controllers, *filter(None, (args.worker_address,))):
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"'{url}' is not a URL: it begins with http:// or https://.")
    if args.limit_worker_concurrency < 0:
        raise UsageError("--limit-worker-concurrency must not be negative.")
    if args.keep_alive:
        raise UsageError(
            "--keep-alive is for models that a daemon loads; a worker in the foreground runs until it is stopped."
        )
    if args.conv_template:
        get_template(args.conv_template)
    host = args.host or listening_host(controllers)
    key = "" if is_loopback(host) or args.open else os.environ.get("FCD_WORKER_KEY") or secrets.token_urlsafe(32)
    wanted = model_options(args)
    if args.engine_command:
        if wanted.engine not in ("", "command"):
            raise UsageError(f"--command is for the engine 'command', not '{wanted.engine}'.")
        wanted = replace(wanted, engine="command")
    return WorkerOptions(
        model=model,
        model_options=wanted,
        command=args.engine_command,
        names=tuple(_words(args.model_names)),
        controllers=controllers,
        join_token=_token(args.token_file),
        host=host,
        port=args.port,
        socket=args.socket,
        address=args.worker_address,
        worker_id=args.worker_id,
        concurrency=args.limit_worker_concurrency,
        kv_bytes=args.kv_bytes,
        heartbeat_s=heartbeat_s,
        drain_s=drain_s,
        api_key=key,
        watched=os.environ.get("FCD_PARENT_WATCH") == "1",
    )


def _token(file: Path | None) -> str:
    if file is None:
        return os.environ.get("FCD_JOIN_TOKEN", "").strip()
    return read_secret(file, "join token", hint="Make one with `fcd token create`.")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _named(parser: Parser) -> Parser:
    parser.add_argument("name", metavar="NAME", help="the worker's name, as `fcd worker list` shows it")
    return parser


async def _start(args: argparse.Namespace) -> int:
    from fcd.settings import MOST_REPLICAS
    from fcd.wire.admin import LoadRequest

    if not 0 <= args.replicas <= MOST_REPLICAS:
        raise UsageError(f"--replicas must be between 1 and {MOST_REPLICAS}.")
    place = place_request(args)
    request = LoadRequest(for_daemon(args.model), model_options(args), args.replicas, place)
    async with _client(TIMEOUT_S if place is not None else 30.0) as client:
        first = await client.start_worker(request)
        workers = await client.workers()
    alike = (each for each in workers if each.on == first.on and each.models == first.models)
    started = [each for each in alike if each.local or each.on] or [first]
    for each in first.notes:
        note(each)
    if args.json:
        print_json(started)
        return EXIT_OK
    if place is not None:
        say_placed(started)
        return EXIT_OK
    for worker in started:
        print(f"{worker.name}  {worker.state}")
    if len(started) < args.replicas:
        print(f"{args.replicas - len(started)} more follow once one works, as far as memory allows.")
    return EXIT_OK


async def _stop(args: argparse.Namespace) -> int:
    async with _client() as client:
        await client.stop_worker(args.name)
    print(f"{args.name} is stopping.")
    return EXIT_OK


async def _attach(args: argparse.Namespace) -> int:
    from fcd.wire.neighbours import AttachRequest

    models = {}
    for word in args.model:
        here, equals, there = word.partition("=")
        models[here] = there if equals else here
    key = read_secret(args.key_file, "key") if args.key_file is not None else ""
    async with _client() as client:
        worker = await client.attach_worker(AttachRequest(args.url, args.name, models, key, args.vision))
    if args.json:
        print_json(worker)
        return EXIT_OK
    print(f"{worker.name} is attached for {', '.join(worker.models)}.")
    return EXIT_OK


async def _detach(args: argparse.Namespace) -> int:
    async with _client() as client:
        await client.detach_worker(args.name)
    print(f"{args.name} is detached.")
    return EXIT_OK


async def _restart(args: argparse.Namespace) -> int:
    async with _client() as client:
        await client.restart_worker(args.name)
    print(f"{args.name} is starting again.")
    return EXIT_OK


async def _list(args: argparse.Namespace) -> int:
    async with _client() as client:
        workers = await client.workers()
    if args.json:
        print_json(workers)
        return EXIT_OK
    if not workers:
        print("No workers. `fcd load MODEL` starts one.")
        return EXIT_OK
    from fcd.cli.worker_facts import worker_table

    print(worker_table(workers))
    return EXIT_OK


async def _show(args: argparse.Namespace) -> int:
    async with _client() as client:
        worker = await _find(client, args.name)
    if args.json:
        print_json(worker)
        return EXIT_OK
    from fcd.cli.worker_facts import worker_facts

    for label, text in worker_facts(worker, time.time()):
        print(f"{label:<13} {text}")
    return EXIT_OK


async def _logs(args: argparse.Namespace) -> int:
    if not 1 <= args.lines <= 10_000:
        raise UsageError("--lines must be between 1 and 10000.")
    async with _client() as client:
        worker = await _find(client, args.name)
        for line in await client.worker_log(worker.name, args.lines):
            print(line)
        if args.follow and worker.on:
            await follow_placed(client, worker.name)
        elif args.follow:
            await _follow(client, worker)
    return EXIT_OK


async def _follow(client: Client, worker: WorkerInfo) -> None:
    """Print what is added to the log, until Ctrl-C. A log on this machine is read from its file."""
    if not worker.local or not worker.log:
        raise FcdError(f"{worker.name} runs on another machine; its log can be followed there only.")
    path = Path(worker.log)
    position = path.stat().st_size
    while True:
        await asyncio.sleep(_FOLLOW_S)
        added, position = _read_from(path, position)
        sys.stdout.write(added)
        sys.stdout.flush()


def _read_from(path: Path, position: int) -> tuple[str, int]:
    """What stands after `position`, and where it ends; a file that has become shorter is read from its start."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(position if end >= position else 0)
        added = file.read()
        return added.decode(errors="replace"), file.tell()


async def _find(client: Client, name: str) -> WorkerInfo:
    workers = await client.workers()
    for worker in workers:
        if worker.name == name:
            return worker
    from fcd.cli.command import nearest

    near = nearest(name, [worker.name for worker in workers])
    raise NotFound(
        f"There is no worker '{name}'." + (f" Did you mean '{near}'?" if near else ""),
        hint="`fcd worker list` shows them.",
    )


def _client(timeout_s: float = 30.0) -> Client:
    from fcd.client import Client

    return Client(timeout_s=timeout_s)
