"""config.toml while the daemon runs: a changed file that is good is applied, a bad one changes nothing and is shown."""

from __future__ import annotations

import asyncio
import copy
import logging
import signal
from collections.abc import Callable
from pathlib import Path

from daemon.context import DaemonContext
from fcd.errors import FcdError
from fcd.settings import Settings

log = logging.getLogger("fcd.daemon")

POLL_S = 1.0
_RESTART = ("daemon.host", "daemon.port")
"""What is fixed once the daemon listens."""

Stamp = tuple[int, int, int]


class Reloader:
    """Watches the file by its time and size, and SIGHUP. `load` reads all layers: file, environment, flags."""

    def __init__(
        self, context: DaemonContext, config_file: Path, load: Callable[[], Settings], *, poll_s: float = POLL_S
    ) -> None:
        self._context = context
        self._file = config_file
        self._load = load
        self._poll_s = poll_s
        self._asked = asyncio.Event()
        self._applied = stamp_of(config_file)

    def ask(self) -> None:
        """Read the file again now, whatever its time says."""
        self._asked.set()

    def listen(self) -> None:
        """Take SIGHUP, where there is such a signal, for `ask`."""
        if hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.ask)

    async def run(self) -> None:
        """Until cancelled."""
        seen = self._applied
        while True:
            try:
                async with asyncio.timeout(self._poll_s):
                    await self._asked.wait()
            except TimeoutError:
                pass
            before, seen = seen, await asyncio.to_thread(stamp_of, self._file)
            # A file that is still being written is left alone until it has rested for one look.
            if self._asked.is_set() or (seen == before and seen != self._applied):
                self._asked.clear()
                self._applied = seen
                await self.reload()

    async def reload(self) -> None:
        """Read the file and apply it, or say what is wrong with it."""
        context = self._context
        try:
            new = await asyncio.to_thread(self._load)
        except FcdError as error:
            context.config_problem = f"config.toml is not applied, and what was in force still is: {error.message}"
            log.error("%s", context.config_problem)
            context.controller.announce_config(context.config_problem)
            return
        before = copy.deepcopy(context.settings)
        changed, fixed = apply(context.settings, new)
        context.config_problem = ""
        context.config_waiting = fixed
        if "daemon.log_level" in changed:
            logging.getLogger().setLevel(context.settings.daemon.log_level.upper())
        await context.controller.reconfigure(before)
        said = f"config.toml was read again; changed: {', '.join(changed) or 'nothing'}."
        if fixed:
            said += f" {restart_needed(fixed)}"
        log.info("%s", said)
        context.controller.announce_config(said)


def apply(current: Settings, new: Settings) -> tuple[list[str], list[str]]:
    """Change settings in place, where everybody who holds them sees it; what changed, and what needs a restart."""
    changed, fixed = [], []
    for section in ("daemon", "worker", "chat", "tui"):
        mine, theirs = getattr(current, section), getattr(new, section)
        for key in mine.__struct_fields__:
            if getattr(mine, key) == getattr(theirs, key):
                continue
            name = f"{section}.{key}"
            if name in _RESTART:
                fixed.append(name)
            else:
                setattr(mine, key, getattr(theirs, key))
                changed.append(name)
    for key in current.engines.vllm.__struct_fields__:
        if getattr(current.engines.vllm, key) != getattr(new.engines.vllm, key):
            setattr(current.engines.vllm, key, getattr(new.engines.vllm, key))
            changed.append(f"engines.vllm.{key}")
    for table in ("models", "aliases"):
        mine, theirs = getattr(current, table), getattr(new, table)
        names = sorted(name for name in {*mine, *theirs} if mine.get(name) != theirs.get(name))
        changed += [f"{table}.{name}" for name in names]
        setattr(current, table, theirs)
    return changed, fixed


def restart_needed(fixed: list[str]) -> str:
    return f"{' and '.join(fixed)} in config.toml take effect when the daemon is restarted (`fcd daemon restart`)."


def stamp_of(file: Path) -> Stamp:
    """What changes when a file is written or replaced; zeros for none."""
    try:
        found = file.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)
