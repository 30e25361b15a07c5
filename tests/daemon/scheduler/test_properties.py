"""What must hold whatever happens, in whatever order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.scheduler import Config
from daemon.scheduler import events as e
from tests.daemon.scheduler.world import World, sequences

CONFIG = Config(max_queue=6, max_wait_s=50.0, load_stall_s=30.0, drain_s=5.0, heartbeat_s=20.0, stable_s=15.0)
MODELS = ("a", "b", "c")


def pick(data: st.DataObject, options: list[str]) -> str | None:
    return data.draw(st.sampled_from(sorted(options))) if options else None


def act(world: World, action: str, data: st.DataObject) -> None:
    """One random thing that the world allows now."""
    starting = [name for name, kind in world.processes.items() if kind == "starting"]
    ready = [name for name, kind in world.processes.items() if kind == "ready"]
    if action == "arrive":
        names = tuple(world.state.workers)
        exclude = (pick(data, list(names)),) if names and data.draw(st.integers(0, 4)) == 0 else ()
        world.arrive(data.draw(st.sampled_from((*MODELS, "x"))), tuple(filter(None, exclude)))
    elif action == "cancel" and world.waiting:
        world.cancel(data.draw(st.sampled_from(sorted(world.waiting))))
    elif action == "finish" and world.granted:
        world.finish(data.draw(st.sampled_from(sorted(world.granted))), failed=data.draw(st.booleans()))
    elif action == "ready" and starting:
        world.ready(str(pick(data, starting)), limit=data.draw(st.integers(1, 3)))
    elif action == "progress" and starting:
        world.progress(str(pick(data, starting)))
    elif action == "exit" and world.processes:
        worker = str(pick(data, list(world.processes)))
        kind = data.draw(st.sampled_from(("plain", "fatal", "memory")))
        world.exit(worker, fatal=kind == "fatal", out_of_memory=kind == "memory")
    elif action == "advance":
        world.advance(data.draw(st.sampled_from((0.1, 1.0, 7.0, 31.0, 400.0, 2000.0))))
    elif action == "probe" and (ready or world.foreign):
        world.probe(str(pick(data, [*ready, *world.foreign])), data.draw(st.booleans()))
    elif action == "load":
        world.send(e.LoadRequested(data.draw(st.sampled_from(MODELS)), data.draw(st.sampled_from((None, 0.0, 3.0)))))
    elif action == "unload":
        world.send(e.UnloadRequested(data.draw(st.sampled_from(MODELS))))
    elif action in ("restart", "remove") and world.state.workers:
        name = str(pick(data, list(world.state.workers)))
        world.send(e.RestartRequested(name) if action == "restart" else e.StopRequested(name))
    elif action == "join":
        world.join(data.draw(st.sampled_from(("f", "g"))), *data.draw(st.sampled_from((("x",), ("x", "a"), ("y",)))))
    elif action == "beat" and world.state.workers:
        length = data.draw(st.sampled_from((-5, 0, 1, 10**12)))
        world.send(e.WorkerBeat(str(pick(data, list(world.state.workers))), length))


ACTIONS = st.sampled_from(
    ("arrive", "arrive", "arrive", "cancel", "finish", "finish", "ready", "ready", "progress", "exit", "advance",
     "probe", "load", "unload", "restart", "remove", "join", "beat")
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(sequences(ACTIONS, 60), st.data())
def test_every_request_is_decided_once(actions: list[str], data: st.DataObject) -> None:
    world = World(CONFIG)
    for action in actions:
        act(world, action, data)
    world.settle()
    assert not world.waiting
    assert not world.state.leases


@settings(max_examples=100, deadline=None)
@given(sequences(ACTIONS, 40), st.data())
def test_stop_leaves_nothing(actions: list[str], data: st.DataObject) -> None:
    world = World(CONFIG)
    for action in actions:
        act(world, action, data)
    world.send(e.StopAll(2.0))
    assert not world.waiting
    world.arrive("a")
    assert not world.waiting
    world.advance(2.0)
    for worker in [name for name, kind in world.processes.items() if kind == "stopping"]:
        world.exit(worker)
    assert not world.processes
    assert world.stopped


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(MODELS), min_size=1, max_size=40), st.integers(1, 3))
def test_nobody_starves_when_memory_holds_one_model_at_a_time(arrivals: list[str], limit: int) -> None:
    world = World(Config(max_queue=100, max_wait_s=1e9), {"a": 60, "b": 70, "c": 80})
    for model in arrivals:
        world.arrive(model)
        for worker, kind in list(world.processes.items()):
            if kind == "starting":
                world.ready(worker, limit)
    world.settle()
    assert [outcome for outcome in world.outcome.values() if outcome != "done"] == []
    assert len(world.outcome) == len(arrivals)
