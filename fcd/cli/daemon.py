"""`fcd daemon`: start, stop and watch the background daemon."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from fcd.cli import numbers
from fcd.cli.command import Group, Parser, add_json, run_subcommand
from fcd.cli.ensure import OnProgress, not_ready, progress_on_stderr, start_daemon
from fcd.cli.neighbours import add_neighbours
from fcd.cli.service import add_service
from fcd.errors import EXIT_FAILED, EXIT_OK, FcdError, NotRunning
from fcd.instance import Instance, already_running, is_process, lock_is_held, read_record, running_instance
from fcd.logformat import for_people
from fcd.paths import Paths, resolve_paths
from fcd.settings import Settings, load_settings

run = run_subcommand

_POLL_S = 0.05
_STOP_GRACE_S = 15.0
"""Over the drain time, for workers to leave; then the daemon is killed."""


def add_arguments(parser: Parser) -> None:
    group = Group(parser)
    start = group.add("start", "start the daemon and wait until it is ready", _start)
    _add_address(start)
    add_json(start)
    stop = group.add("stop", "stop the daemon; running answers may finish", _stop)
    stop.add_argument("--now", action="store_true", help="do not wait for running answers")
    restart = group.add("restart", "stop the daemon and start it again", _restart)
    _add_address(restart)
    add_json(restart)
    status = group.add("status", "say whether the daemon runs, and what it does", _status)
    add_json(status)
    foreground = group.add("run", "run the daemon in the foreground", _run)
    _add_address(foreground)
    foreground.add_argument("--detached", action="store_true", help=argparse.SUPPRESS)
    logs = group.add("logs", "show the daemon's log", _logs)
    logs.add_argument("-f", "--follow", action="store_true", help="go on showing what is written")
    logs.add_argument(
        "-n", "--lines", type=numbers.lines, default=100, metavar="N", help="how many lines (default: 100)"
    )
    logs.add_argument("--json", action="store_true", help="print the lines as they are in the file: JSON")
    add_service(group)
    add_neighbours(group)


def _add_address(parser: Parser) -> None:
    parser.add_argument("--host", metavar="HOST", help="where it listens (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, metavar="N", help="the port that it listens on (default: 8000)")


def _settings(args: argparse.Namespace, paths: Paths) -> Settings:
    overrides = {"daemon.host": getattr(args, "host", None), "daemon.port": getattr(args, "port", None)}
    return load_settings(paths.config_file, overrides=overrides)


def _start(args: argparse.Namespace) -> int:
    paths = resolve_paths()
    _settings(args, paths)  # a setting that cannot be used is said here, not in a log
    if (instance := running_instance(paths)) is not None:
        raise already_running(instance)
    instance, mine = _start_and_wait(args, paths)
    if not mine:
        raise already_running(instance)
    _print_started(args, instance)
    return EXIT_OK


def _start_and_wait(args: argparse.Namespace, paths: Paths) -> tuple[Instance, bool]:
    flags = [word for name in ("host", "port") if (value := getattr(args, name)) is not None
             for word in (f"--{name}", str(value))]  # fmt: skip
    progress = progress_on_stderr()
    try:
        return start_daemon(paths, flags=flags, on_progress=progress)
    finally:
        progress.end()


def _print_started(args: argparse.Namespace, instance: Instance) -> None:
    if args.json:
        print(json.dumps({"pid": instance.pid, "url": instance.url, "version": instance.version}))
    else:
        print(f"The daemon is ready at {instance.url} (pid {instance.pid}).")


def _stop(args: argparse.Namespace) -> int:
    paths = resolve_paths()
    instance = _require_running(paths)
    _stop_and_wait(instance, paths, now=args.now)
    print(f"The daemon has stopped (pid {instance.pid}).")
    return EXIT_OK


def _restart(args: argparse.Namespace) -> int:
    paths = resolve_paths()
    _settings(args, paths)
    instance = running_instance(paths)
    try:
        if instance is not None:
            _stop_and_wait(instance, paths, now=False)
        instance, _ = _start_and_wait(args, paths)
    except KeyboardInterrupt:
        print(_interrupted(paths), file=sys.stderr)
        raise
    _print_started(args, instance)
    return EXIT_OK


def _interrupted(paths: Paths) -> str:
    """How a restart that was broken off left things, and what to do."""
    if running_instance(paths) is not None or lock_is_held(paths):
        return "Interrupted: a daemon is stopping or starting here. `fcd daemon status` shows whether one stays."
    return "Interrupted: the daemon has stopped, and no other was started. `fcd daemon start` starts it."


def _require_running(paths: Paths) -> Instance:
    instance = running_instance(paths)
    if instance is None:
        raise _not_running(paths)
    return instance


def _not_running(paths: Paths) -> NotRunning:
    if lock_is_held(paths):
        return NotRunning("A daemon is starting or stopping here.", hint="Try again in a moment.")
    stale = read_record(paths)
    left = f" (a daemon with pid {stale.pid} ended without cleaning up)" if stale is not None else ""
    return NotRunning(f"The daemon is not running{left}.", hint="Start it with `fcd daemon start`.")


def _stop_and_wait(instance: Instance, paths: Paths, *, now: bool) -> None:
    """SIGTERM, wait for the drain, SIGKILL. Only the process that wrote the pidfile is ever signalled.

    Raises:
        FcdError: it is still there at the end, or belongs to another user.
    """
    import psutil

    limit = _drain_s(paths) + _STOP_GRACE_S
    progress = progress_on_stderr()
    try:
        process = psutil.Process(instance.pid)
        process.terminate()
        if now:
            time.sleep(_POLL_S)
            process.terminate()
        if not _wait_gone(instance, limit, progress):
            process.kill()
            if not _wait_gone(instance, _STOP_GRACE_S, progress):
                raise FcdError(
                    f"The daemon (pid {instance.pid}) does not end, even killed.", hint="See `fcd daemon logs`."
                )
            print(f"It did not stop in {limit:.0f} s and was killed.", file=sys.stderr)
    except psutil.NoSuchProcess:
        return
    except psutil.AccessDenied as error:
        raise FcdError(f"The daemon (pid {instance.pid}) belongs to another user.") from error
    finally:
        progress.end()


def _wait_gone(instance: Instance, limit_s: float, progress: OnProgress) -> bool:
    from fcd.wire.admin import Progress

    began = time.monotonic()
    while is_process(instance):
        waited = time.monotonic() - began
        if waited > limit_s:
            return False
        if waited > 0.5:
            progress(Progress("Stopping the daemon", done=waited, total=limit_s, unit="s"))
        time.sleep(_POLL_S)
    return True


def _drain_s(paths: Paths) -> float:
    try:
        return load_settings(paths.config_file).daemon.drain_s
    except FcdError:
        return Settings().daemon.drain_s


def _status(args: argparse.Namespace) -> int:
    paths = resolve_paths()
    instance = running_instance(paths)
    if instance is None:
        if args.json:
            why = _not_running(paths)
            print(json.dumps({"running": False, "ready": False, "reasons": [f"{why.message} {why.hint}"]}))
            return why.exit_code
        raise _not_running(paths)
    status = _ask_status(instance, paths)
    if args.json:
        print(json.dumps({"running": True, **status}))
    else:
        _print_status(status)
    return EXIT_OK


def _ask_status(instance: Instance, paths: Paths) -> dict[str, Any]:
    """What the daemon says of itself, or what its pidfile says when it does not answer."""
    from fcd.cli.command import run_async
    from fcd.client import Address, Client
    from fcd.errors import ApiError

    answer: dict[str, Any] = {}

    async def ask() -> int:
        token = paths.admin_token.read_text(encoding="utf-8").strip() if paths.admin_token.exists() else ""
        async with Client(Address(instance.url, token), timeout_s=5.0) as client:
            answer.update(await client.json("GET", "/api/status"))
        return EXIT_OK

    try:
        run_async(ask())
    except (NotRunning, ApiError) as error:
        return {
            "pid": instance.pid,
            "url": instance.url,
            "version": instance.version,
            "ready": False,
            "uptime_s": round(time.time() - instance.started_at, 3),
            "workers": [],
            "reasons": [not_ready(instance.url) or error.message],
        }
    return answer


def _print_status(status: dict[str, Any]) -> None:
    print(f"URL      {status['url']}")
    print(f"pid      {status['pid']}")
    print(f"version  {status['version']}")
    print(f"up       {_duration(status['uptime_s'])}")
    reasons = status.get("reasons") or []
    print(f"ready    {'yes' if status['ready'] else 'no: ' + ' '.join(reasons)}")
    for warning in status.get("warnings") or []:
        print(f"warning  {warning}")
    workers = status["workers"]
    print(f"workers  {len(workers) or 'none; the first request for a model loads it'}")
    for worker in workers:
        models = ", ".join(worker["models"])
        print(f"  {worker['name']:<20} {worker['state']:<9} {worker.get('device', ''):<6} {models}")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    shown = [f"{value} {unit}" for value, unit in parts if value][:2]
    return " ".join(shown) or "0 s"


def _run(args: argparse.Namespace) -> int:
    from daemon.lifecycle import run_daemon

    paths = resolve_paths()
    return run_daemon(_settings(args, paths), paths, detached=args.detached, reload=lambda: _settings(args, paths))


def _logs(args: argparse.Namespace) -> int:
    paths = resolve_paths()
    log = paths.daemon_log
    if not log.exists() and not args.follow:
        raise FcdError(f"There is no log yet at {log}.", hint="`fcd daemon start` starts the daemon.")
    written = log.read_bytes() if log.exists() else b""
    written = written[: written.rfind(b"\n") + 1]
    for line in written.decode("utf-8", "replace").splitlines()[-args.lines :]:
        print(line if args.json else for_people(line))
    if args.follow:
        sys.stdout.flush()
        _follow(log, len(written), raw=args.json)
    return EXIT_OK


def _follow(log: Path, shown: int, *, raw: bool) -> None:
    """Print what stands after the bytes shown already, until Ctrl-C; goes on in the new file after a rotation."""
    file = log.open(encoding="utf-8", errors="replace") if log.exists() else None
    if file is not None:
        file.seek(shown)
    partial = ""
    while True:
        if file is None:
            if log.exists():
                file = log.open(encoding="utf-8", errors="replace")
            else:
                time.sleep(0.2)
                continue
        partial += file.readline()
        if partial.endswith("\n"):
            print(partial.rstrip("\n") if raw else for_people(partial), flush=True)
            partial = ""
            continue
        try:
            rotated = log.stat().st_ino != _inode(file)
        except FileNotFoundError:
            rotated = True
        if rotated:
            file.close()
            file = None
        time.sleep(0.2)


def _inode(file: Any) -> int:
    import os

    return os.fstat(file.fileno()).st_ino


__all__ = ["EXIT_FAILED", "add_arguments", "run"]
