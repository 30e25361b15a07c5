"""The daemon's side of a cluster, with a cluster that is a table in memory."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon.cluster.messages import AgentError, HostStatus, Launch, Node, PartStatus, Picture, Seen
from daemon.security import Caller
from daemon.store.placements import Need
from fcd.errors import ApiError
from fcd.wire.admin import LoadRequest, ModelOptions, PlaceRequest
from tests.daemon.controller.harness import Daemon, running, until

NAME = "guide-mini-ray-1"


class FakeCluster:
    """What an agent would say. It outlives the daemons that use it."""

    def __init__(self) -> None:
        self.placed: dict[str, Launch] = {}
        self.seen: dict[str, Seen] = {}
        self.calls: list[tuple[str, str]] = []
        self.nodes = [Node("n", "127.0.0.1", "here", {"CPU": 4}, {"CPU": 4})]
        self.problem: AgentError | None = None
        self.connected = False

    async def connect(self) -> None:
        self._check()
        self.connected = True

    async def picture(self, actors: list[str], prefix: str) -> Picture:
        self._check()
        return Picture(self.nodes, {name: seen for name, seen in self.seen.items() if name.startswith(prefix)})

    async def place(self, actor: str, need: Need, launch: Launch, siblings: list[str]) -> None:
        self._check()
        self.calls.append(("place", actor))
        if actor not in self.seen or not self.seen[actor].actor:
            self.placed[actor] = launch
        self.says(actor, "starting")

    async def call(self, actor: str, method: Any, *, amount: float = 0.0, launch: Launch | None = None) -> list[str]:
        self._check()
        self.calls.append((method, actor))
        if method == "stop":
            self.says(actor, "stopped")
        if method == "update" and launch is not None:
            self.placed[actor] = launch
            self.says(actor, "starting")
        return ["a line"] if method == "logs" else []

    async def remove(self, actor: str) -> None:
        self._check()
        self.calls.append(("remove", actor))
        self.seen.pop(actor, None)

    async def close(self) -> None:
        self.connected = False

    def says(self, actor: str, state: Any, error: str = "") -> None:
        launch = self.placed[actor]
        status = HostStatus(
            state, error, pid=7, node="127.0.0.1", controller=launch.controller, token_id=launch.token_id
        )
        self.seen[actor] = Seen("CREATED", "n", True, status)

    def _check(self) -> None:
        if self.problem is not None:
            self.connected = False
            raise self.problem

    @property
    def actor(self) -> str:
        (name,) = self.placed
        return name


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    made = FakeCluster()
    monkeypatch.setattr("daemon.cluster.placements.AgentLink", lambda cluster, **_: made)
    monkeypatch.setattr("daemon.cluster.keeper._STEADY_S", 0.1)
    monkeypatch.setattr("daemon.cluster.keeper._SOON_S", 0.05)
    monkeypatch.setattr("daemon.cluster.keeper._RETRY_S", (0.05,))
    return made


async def start(daemon: Daemon, replicas: int = 0, **options: Any) -> Any:
    request = LoadRequest("guide-mini", ModelOptions(**options), replicas, PlaceRequest("ray"))
    return await daemon.controller.start_worker(request)


def shown(daemon: Daemon, name: str = NAME) -> Any:
    return daemon.controller.worker(name)


async def register(daemon: Daemon, token: str, *models: str) -> int:
    body = {
        "worker_name": "http://127.0.0.1:9",
        "check_heart_beat": True,
        "worker_status": {"model_names": list(models), "speed": 1, "queue_length": 0},
    }
    answer = await daemon.http.post("/register_worker", json=body, headers={"Authorization": f"Bearer {token}"})
    return answer.status_code


def test_a_worker_is_placed_shown_and_removed(cluster: FakeCluster, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon:
            info = await start(daemon)
            assert (info.name, info.state, info.on, info.local) == (NAME, "starting", "ray", False)
            launch = cluster.placed[cluster.actor]
            assert launch.controller == daemon.url
            assert launch.arguments[:3] == ("guide-mini", "--model-names", "guide-mini")
            assert await daemon.controller.log_lines(NAME, 5) == ["a line"]
            await daemon.controller.restart(NAME)
            assert ("restart", cluster.actor) in cluster.calls

            # Its token is for its own model, which is this machine's too; it enters under its own name.
            assert await register(daemon, launch.token, "another") == 403
            assert await register(daemon, launch.token, "guide-mini") == 200
            assert shown(daemon).address == "http://127.0.0.1:9"
            stranger = (await daemon.join_token())["Authorization"].removeprefix("Bearer ")
            assert await register(daemon, stranger, "guide-mini") == 409

            await daemon.controller.stop_worker(NAME)
            assert await register(daemon, launch.token, "guide-mini") == 401
            await until(lambda: shown(daemon) is None)
            assert cluster.seen == {}
            assert [call for call, _ in cluster.calls][-2:] == ["stop", "remove"]
            await until(lambda: not cluster.connected)

    asyncio.run(main())


def test_what_is_placed_while_the_last_one_goes_is_looked_after(
    cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon:
            await start(daemon)
            reached, go = asyncio.Event(), asyncio.Event()
            connect = cluster.connect

            async def slow() -> None:
                if asyncio.current_task() is placing:
                    reached.set()
                    await go.wait()
                await connect()

            monkeypatch.setattr(cluster, "connect", slow)
            placing = asyncio.create_task(start(daemon))
            await daemon.controller.stop_worker(NAME)
            await reached.wait()
            await until(lambda: shown(daemon) is None)
            await asyncio.sleep(0.3)  # the keeper has nothing to look after now
            go.set()
            info = await asyncio.wait_for(placing, 10)
            assert info.state == "starting"
            assert list(daemon.controller.placements._keepers) == ["ray"]
            await daemon.controller.stop_worker(info.name)
            await until(lambda: shown(daemon) is None and cluster.seen == {})
            await until(lambda: not cluster.connected)

    asyncio.run(main())


def test_a_daemon_that_starts_again_adopts_what_runs(cluster: FakeCluster, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon:
            await start(daemon, replicas=2)
            before = daemon.url
        assert len(cluster.seen) == 2
        placed = [call for call in cluster.calls if call[0] == "place"]
        actor = next(iter(cluster.placed))
        async with running(tmp_path) as daemon:
            assert daemon.url != before
            # It listens at another address now, which its workers are told.
            await until(lambda: all(launch.controller == daemon.url for launch in cluster.placed.values()))
            assert [call for call in cluster.calls if call[0] == "place"] == placed
            assert await register(daemon, cluster.placed[actor].token, "guide-mini") == 200
            # What the cluster lost altogether is placed again, with a new token.
            token = cluster.placed[actor].token
            del cluster.seen[actor]
            await until(lambda: cluster.placed[actor].token != token)
            assert await register(daemon, token, "guide-mini") == 401

    asyncio.run(main())


@pytest.mark.parametrize("lost", ["actor", "reservation"])
def test_a_worker_whose_token_is_no_longer_good_gets_the_one_that_is(
    cluster: FakeCluster, tmp_path: Path, lost: str
) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon:
            await start(daemon)
            actor, first = cluster.actor, cluster.placed[cluster.actor]
            (placed,) = daemon.controller.placements.placed_on("ray")
            if lost == "actor":
                # Its token was replaced, as when the daemon has moved there and back; now the cluster brings the actor
                # back with what it was made with.
                await daemon.controller.placements.new_token(placed)
                cluster.says(actor, "starting")
            else:
                cluster.seen[actor] = Seen(actor=True)
            await until(lambda: cluster.placed[actor] is not first)
            assert cluster.placed[actor].controller == first.controller == daemon.url
            assert await register(daemon, first.token, "guide-mini") == 401
            assert await register(daemon, cluster.placed[actor].token, "guide-mini") == 200
            await asyncio.sleep(0.3)  # it is told once
            assert [call for call, _ in cluster.calls].count("update") == 1

    asyncio.run(main())


def test_an_actor_that_does_not_say_which_token_it_has_is_let_be(cluster: FakeCluster, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon:
            await start(daemon)
            cluster.placed[cluster.actor] = msgspec.structs.replace(cluster.placed[cluster.actor], token_id="")
            cluster.says(cluster.actor, "loading")
            await until(lambda: shown(daemon).state == "loading")
            await asyncio.sleep(0.3)
            assert "update" not in [call for call, _ in cluster.calls]

    asyncio.run(main())


def test_what_a_lost_node_left_over_does_not_take_its_successors_place(
    cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon:
            await start(daemon)
            placements = daemon.controller.placements
            (placed,) = placements.placed_on("ray")
            caller = Caller("token", placed.placement.token_id)
            assert await placements.of_token(caller, 8) is placed.placement
            monkeypatch.setattr(placements, "is_serving", lambda name: True)
            assert await placements.of_token(caller, 7) is placed.placement
            with pytest.raises(ApiError) as refused:
                await placements.of_token(caller, 8)
            assert (refused.value.status, refused.value.code) == (503, "superseded")
            # A cluster that does not answer knows nothing better than the worker itself.
            cluster.problem = AgentError("It is away.")
            await until(lambda: "It is away." in placed.reason)
            assert await placements.of_token(caller, 8) is placed.placement

    asyncio.run(main())


def test_fewer_or_more_replicas_and_other_options(cluster: FakeCluster, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon:
            await start(daemon, replicas=2)
            await start(daemon)
            assert len(cluster.seen) == 2
            await start(daemon, replicas=1)
            await until(lambda: len(daemon.controller.workers()) == 1)
            await start(daemon, replicas=3)
            assert len(cluster.seen) == 3
            with pytest.raises(ApiError) as refused:
                await start(daemon, num_gpus=1)
            assert refused.value.status == 409

    asyncio.run(main())


def test_a_cluster_that_cannot_be_used_is_an_error_and_leaves_nothing(cluster: FakeCluster, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon:
            cluster.problem = AgentError("Ray is not installed here.", hint="Install it.", code="no_ray")
            with pytest.raises(ApiError) as refused:
                await start(daemon)
            assert (refused.value.status, refused.value.message) == (501, "Ray is not installed here. Install it.")
            assert daemon.controller.workers() == []
            cluster.problem = None
            cluster.nodes = [Node("n", "192.0.2.7", "far", {"CPU": 1})]
            with pytest.raises(ApiError) as refused:
                await start(daemon)
            assert refused.value.code == "not_reachable"
            assert "--host 0.0.0.0" in refused.value.message
            assert cluster.placed == {}

    asyncio.run(main())


def test_what_was_stopped_while_the_cluster_is_away_is_removed_when_it_is_back(
    cluster: FakeCluster, tmp_path: Path
) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon:
            await start(daemon)
            cluster.problem = AgentError("It is away.", code="cluster_unreachable")
            await until(lambda: "It is away." in shown(daemon).error)
            await daemon.controller.stop_worker(NAME)
            assert shown(daemon).state == "stopping"
        async with running(tmp_path) as daemon:
            assert shown(daemon).name == NAME
            cluster.problem = None
            await until(lambda: shown(daemon) is None)
            assert cluster.seen == {}

    asyncio.run(main())


def test_requests_wait_for_what_comes_and_are_told_why_nothing_comes(cluster: FakeCluster, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon:
            await start(daemon)
            waiting = asyncio.ensure_future(daemon.controller.acquire("guide-mini"))
            await asyncio.sleep(0.2)
            assert not waiting.done()
            assert daemon.spawn.commands == []
            cluster.seen[cluster.actor] = msgspec.structs.replace(cluster.seen[cluster.actor], group="PENDING")
            with pytest.raises(ApiError) as refused:
                await waiting
            assert refused.value.status == 503
            assert "pending" in refused.value.message
            cluster.says(cluster.actor, "failed", "No such model.")
            await until(lambda: shown(daemon).state == "failed")
            with pytest.raises(ApiError) as refused:
                await daemon.controller.acquire("guide-mini")
            assert "No such model." in refused.value.message

    asyncio.run(main())


def test_a_load_follows_the_cluster_and_starts_nothing_here(cluster: FakeCluster, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon:
            await start(daemon)
            events = await daemon.controller.load(LoadRequest("guide-mini"))
            first = await anext(events)
            assert first is not None
            assert first.type == "progress"
            cluster.says(cluster.actor, "failed", "No such model.")
            last = [event async for event in events][-1]
            assert last is not None
            assert (last.type, last.error) == ("error", "No such model.")
            assert daemon.spawn.commands == []

    asyncio.run(main())


def test_only_workers_can_be_placed(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon:
            request = LoadRequest("guide-mini", place=PlaceRequest("ray"))
            for path in ("/api/models/load", "/api/models/estimate"):
                body = msgspec.json.encode(request)
                headers = {**daemon.admin, "Content-Type": "application/json"}
                answer = await daemon.http.post(path, content=body, headers=headers)
                assert answer.status_code == 400
                assert answer.json()["error"]["param"] == "place"

    asyncio.run(main())


def test_what_no_node_holds_goes_over_several_when_they_join(cluster: FakeCluster, tmp_path: Path) -> None:
    def reserve(actor: str, launch: Launch) -> None:
        group = "CREATED" if launch.parts else "PENDING"
        cluster.seen[actor] = Seen(group, "", True, None, parts=len(launch.parts))

    async def place(actor: str, need: Need, launch: Launch, siblings: list[str]) -> None:
        cluster.calls.append(("place", actor))
        cluster.placed[actor] = launch
        reserve(actor, launch)

    cluster.place = place  # type: ignore[method-assign]

    async def main() -> None:
        cluster.nodes = [Node("a", "127.0.0.1", "a", {"CPU": 4, "GPU": 1}, {})]
        async with running(tmp_path) as daemon:
            info = await start(daemon, engine="vllm", num_gpus=2)
            assert info.state == "pending"
            assert "Spread over 2 nodes it takes 1 CPU, 1 GPU on each, and 1 of the cluster's 1 has that." in info.error
            actor = cluster.actor
            assert (cluster.placed[actor].parts, cluster.placed[actor].gpus) == ((), 2)

            cluster.nodes = [*cluster.nodes, Node("b", "127.0.0.2", "b", {"CPU": 4, "GPU": 1}, {})]
            await until(lambda: cluster.placed[actor].parts == (f"{actor}#1",))
            assert cluster.placed[actor].gpus == 1
            assert cluster.placed[actor].arguments[-4:] == ("--engine", "vllm", "--num-gpus", "2")
            assert [call for call, _ in cluster.calls] == ["place", "remove", "place"]

            launch = cluster.placed[actor]
            parts = [PartStatus("127.0.0.2", "loading", pid=8)]
            status = HostStatus("loading", "", 1, 7, "127.0.0.1", launch.controller, launch.token_id, parts=parts)
            cluster.seen[actor] = Seen("CREATED", "a", True, status, parts=1)
            await until(lambda: shown(daemon).state == "loading")
            assert shown(daemon).node == "127.0.0.1, 127.0.0.2"
            assert "Over 2 nodes: 127.0.0.1 loading; 127.0.0.2 loading." in shown(daemon).notes

            # An actor of its further node that is gone is made again.
            placed = len(cluster.calls)
            cluster.seen[actor] = Seen("CREATED", "a", True, status, parts=0)
            await until(lambda: len(cluster.calls) > placed)
            assert cluster.calls[-1] == ("place", actor)

    asyncio.run(main())
