"""Workers that the daemon starts: real processes, killed, stopped and hung."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.daemon.controller.harness import FakeSpawn, running, state_of, until


def test_many_callers_cause_one_load(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, spawn=FakeSpawn(FAKE_PARALLEL="32")) as daemon:
            leases = await asyncio.gather(*(daemon.controller.acquire("guide") for _ in range(20)))
            assert len(daemon.spawn.pids) == 1
            assert {lease.target.worker for lease in leases} == {"guide"}
            assert Path(leases[0].target.socket).is_socket()
            for lease in leases:
                lease.release()
            assert not daemon.controller.supervisor.state.leases
            assert state_of(daemon) == "ready"

    asyncio.run(main())


