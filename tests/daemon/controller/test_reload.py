"""config.toml changed while the daemon runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from daemon.reload import Reloader
from fcd.errors import ApiError
from fcd.settings import load_settings, read_snapshot
from tests.daemon.controller.harness import Daemon, FakeSpawn, running, state_of, until


@dataclass
class Watched:
    daemon: Daemon
    file: Path
    reloader: Reloader

    async def write(self, text: str) -> None:
        """Put a file in place and wait until the daemon has dealt with it."""
        with self.daemon.controller.hub.subscribe() as events:
            new = self.file.with_suffix(".new")
            new.write_text(text)
            new.replace(self.file)
            async with asyncio.timeout(10):
                while (event := await events.next()) is not None and event.type != "config":
                    pass
        assert event is not None
        self.said = event.message


@asynccontextmanager
async def watched(home: Path, text: str, **options: object) -> AsyncIterator[Watched]:
    file = home / "config" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    async with running(home, settings=load_settings(file, {}), **options) as daemon:  # type: ignore[arg-type]
        reloader = Reloader(
            daemon.controller._context, file, lambda: load_settings(file, {}, {"daemon.port": 0}), poll_s=0.05
        )
        task = asyncio.create_task(reloader.run())
        try:
            yield Watched(daemon, file, reloader)
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


MINE = '[models.mine]\npath = "guide"\n'


def test_a_bad_file_changes_nothing_and_is_shown_with_its_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with watched(tmp_path, MINE) as watching:
            daemon = watching.daemon
            context = daemon.controller._context
            (await daemon.controller.acquire("mine")).release()
            for text, words in (
                ("[daemon]\nmax_queue = 5\n[models.mine\n", "line 3"),
                ("[daemon]\nmax_queue = 5\nmax_qeue = 7\n", "line 3: unknown setting 'daemon.max_qeue'"),
                ('[daemon]\nmax_queue = 5\nstall_s = "long"\n', "line 3: daemon.stall_s: Expected `float`"),
                ('[models.mine]\npath = "guide"\ntop_k = "x"\n', "line 3: models.mine.top_k: Expected `int"),
                ("[models.mine]\n\ntop_p = 7\n", "line 3: models.mine.top_p must be between 0 and 1"),
            ):
                await watching.write(text)
                assert words in watching.said
                assert context.config_problem == watching.said
                assert context.warnings() == [watching.said]
                assert not context.not_ready(), "it can still take work"
                assert context.settings.daemon.max_queue == 256
                assert words in caplog.text
                assert daemon.controller.supervisor.state.config.max_queue == 256
            (await daemon.controller.acquire("mine")).release()
            assert len(daemon.spawn.pids) == 1
            await watching.write(MINE)
            assert context.warnings() == []

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())


def test_a_worker_starts_with_what_is_in_force_though_the_file_is_broken(tmp_path: Path) -> None:
    async def main() -> None:
        async with watched(tmp_path, MINE) as watching:
            await watching.write("[broken")
            (await watching.daemon.controller.acquire("mine")).release()
            file = Path(watching.daemon.spawn.environments[0]["FCD_SETTINGS_FILE"])
            assert read_snapshot(file).models["mine"].path == "guide"

    asyncio.run(main())


def test_limits_and_aliases_apply_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        spawn = FakeSpawn(FAKE_PARALLEL="1")
        async with watched(tmp_path, MINE, spawn=spawn) as watching:
            controller = watching.daemon.controller
            leases = [await controller.acquire("mine") for _ in range(2)]
            text = '[daemon]\nmax_queue = 1\ndispatch = "lottery"\nkeep_alive = "7s"\n[aliases]\nother = "mine"\n'
            await watching.write(text + MINE)
            assert "daemon.max_queue" in watching.said
            assert "aliases.other" in watching.said
            waiting = asyncio.create_task(controller.acquire("other"))
            await until(lambda: controller.supervisor.state.queued)
            with pytest.raises(ApiError) as refusal:
                await controller.acquire("mine")
            assert (refusal.value.status, bool(refusal.value.retry_after)) == (429, True)
            assert controller.supervisor.state.config.dispatch == "lottery"
            assert controller.supervisor.state.workers["mine"].keep_alive == 7.0
            for lease in leases:
                lease.release()
            (await waiting).release()
            assert len(spawn.pids) == 1, "nothing had to start again for that"

    asyncio.run(main())


def test_models_come_go_and_change_without_cutting_anybody_off(tmp_path: Path) -> None:
    async def main() -> None:
        async with watched(tmp_path, MINE) as watching:
            daemon, controller = watching.daemon, watching.daemon.controller
            with pytest.raises(ApiError):
                await controller.acquire("new")
            held = await controller.acquire("mine")
            await watching.write(MINE + 'dtype = "float32"\n[models.new]\npath = "guide-mini"\n')
            (await controller.acquire("new")).release()
            assert state_of(daemon, "mine") == "ready", "its request goes on"
            held.release()
            (await controller.acquire("mine")).release()
            assert "--dtype" in daemon.spawn.commands[-1]
            held = await controller.acquire("mine")
            await watching.write("")
            with pytest.raises(ApiError) as refusal:
                await controller.acquire("mine")
            assert refusal.value.status == 404
            assert state_of(daemon, "mine") == "ready"
            held.release()
            await until(lambda: state_of(daemon, "mine") == state_of(daemon, "new") == "gone")

    asyncio.run(main())


def test_a_changed_profile_starts_its_worker_again_and_a_new_one_too(tmp_path: Path) -> None:
    async def main() -> None:
        async with watched(tmp_path, MINE) as watching:
            daemon, controller = watching.daemon, watching.daemon.controller
            (await controller.acquire("guide")).release()
            (await controller.acquire("mine")).release()
            assert len(daemon.spawn.pids) == 1, "two names of one model share its worker"
            await watching.write('[models.mine]\npath = "guide"\nsystem = "Be brief."\n')
            (await controller.acquire("mine")).release()
            assert len(daemon.spawn.pids) == 2
            await watching.write('[models.mine]\npath = "guide"\nsystem = "Be brief."\nreplicas = 2\npreload = true\n')
            await until(lambda: len([worker for worker in controller.workers() if worker.state == "ready"]) >= 2)

    asyncio.run(main())


def test_what_needs_a_restart_is_named(tmp_path: Path) -> None:
    async def main() -> None:
        async with watched(tmp_path, "") as watching:
            context = watching.daemon.controller._context
            await watching.write('[daemon]\nhost = "0.0.0.0"\n')
            assert "daemon.host" in watching.said
            assert "fcd daemon restart" in watching.said
            assert context.settings.daemon.host == "127.0.0.1"
            assert any("daemon.host" in warning for warning in context.warnings())

    asyncio.run(main())
