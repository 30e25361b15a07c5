"""Several workers for one model: started, spread over, rested, scaled; and conversations that return."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.scheduler import Config
from daemon.scheduler import events as e
from daemon.scheduler.affinity import MOST_PREFIXES, Affinity
from tests.daemon.scheduler.test_decide import state
from tests.daemon.scheduler.world import World


def three(config: Config | None = None) -> World:
    """A world in which `a` has three workers, all ready."""
    world = World(config, {"a": 20, "b": 30}, {"a": 3})
    first = world.arrive("a")
    assert list(world.processes) == ["a"], "the first one must work before there are more"
    world.ready("a", limit=4)
    assert list(world.processes) == ["a", "a-2", "a-3"]
    world.ready("a-2", limit=4)
    world.ready("a-3", limit=4)
    world.finish(first)
    return world


def test_requests_go_to_the_least_loaded_replica() -> None:
    world = three()
    numbers = [world.arrive("a") for _ in range(9)]
    assert Counter(world.granted.values()) == {"a": 3, "a-2": 3, "a-3": 3}
    for number in numbers:
        world.finish(number)


def test_replicas_take_no_room_from_others() -> None:
    world = World(None, {"a": 30, "b": 60}, {"a": 3})
    number = world.arrive("b")
    world.ready("b")
    world.finish(number)
    world.arrive("a")
    world.ready("a")
    assert list(world.processes) == ["b", "a"]
    refused = [effect for effect in world.effects if isinstance(effect, e.LoadRefused)]
    assert len(refused) == 1
    assert "1 of 3 workers" in refused[0].message
    world.send(e.UnloadRequested("b"))
    world.exit("b")
    assert list(world.processes) == ["a", "a-2", "a-3"], "as soon as there is room"


def test_replicas_rest_together() -> None:
    world = three()
    busy = world.arrive("a")
    world.advance(5000)
    assert {state(world, name) for name in ("a", "a-2", "a-3")} == {"ready"}
    world.finish(busy)
    world.advance(999)
    assert {state(world, name) for name in ("a", "a-2", "a-3")} == {"ready"}
    world.advance(2)
    assert {state(world, name) for name in ("a", "a-2", "a-3")} == {"stopping"}
    for name in ("a", "a-2", "a-3"):
        world.exit(name)
    assert not world.processes


def test_a_dead_replica_is_replaced_and_the_others_serve_meanwhile() -> None:
    world = three()
    world.exit("a-2")
    numbers = [world.arrive("a") for _ in range(4)]
    assert set(world.granted.values()) == {"a", "a-3"}
    assert world.processes["a-2"] == "starting"
    for number in numbers:
        world.finish(number)


def test_scaling_up_and_down() -> None:
    world = three()
    busy = world.arrive("a")
    world.send(e.LoadRequested("a", replicas=1))
    leaving = [name for name, kind in world.processes.items() if kind == "stopping"]
    assert len(leaving) == 2
    assert world.granted[busy] not in leaving
    for name in leaving:
        world.exit(name)
    world.send(e.LoadRequested("a", replicas=2))
    assert len(world.processes) == 2
    world.finish(busy)


def test_stopping_one_replica_leaves_the_others() -> None:
    world = three()
    world.send(e.StopRequested("a-3"))
    world.exit("a-3")
    assert list(world.processes) == ["a", "a-2"]


def test_unload_ends_all() -> None:
    world = three()
    world.send(e.UnloadRequested("a"))
    for name in list(world.processes):
        world.exit(name)
    assert not world.processes


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(("arrive", "finish", "ready", "exit", "advance", "scale", "b")), max_size=50), st.data()
)  # fmt: skip
def test_replicas_lose_no_request(actions: list[str], data: st.DataObject) -> None:
    world = World(Config(max_queue=50), {"a": 20, "b": 50}, {"a": 3})
    for action in actions:
        starting = [name for name, kind in world.processes.items() if kind == "starting"]
        if action in ("arrive", "b"):
            world.arrive("b" if action == "b" else "a")
        elif action == "finish" and world.granted:
            world.finish(data.draw(st.sampled_from(sorted(world.granted))))
        elif action == "ready" and starting:
            world.ready(data.draw(st.sampled_from(starting)))
        elif action == "exit" and world.processes:
            world.exit(data.draw(st.sampled_from(sorted(world.processes))))
        elif action == "advance":
            world.advance(data.draw(st.sampled_from((1.0, 30.0, 1500.0))))
        elif action == "scale":
            world.send(e.LoadRequested("a", replicas=data.draw(st.integers(1, 4))))
    world.settle()
    assert not world.waiting
    assert not world.state.leases


def test_a_conversation_returns_to_the_replica_that_holds_it() -> None:
    world = three(Config(dispatch="prefix_affinity"))
    homes = {}
    for talk in range(6):
        number = ask(world, (1, 10 + talk))
        homes[talk] = world.granted[number]
        world.finish(number)
    for talk in reversed(range(6)):
        number = ask(world, (1, 10 + talk, 100 + talk))
        assert world.granted[number] == homes[talk]
        world.finish(number)


def test_a_hot_beginning_spreads() -> None:
    world = three(Config(dispatch="prefix_affinity"))
    for _ in range(12):
        ask(world, (7,))
    counts = Counter(world.granted.values())
    assert set(counts) == {"a", "a-2", "a-3"}
    assert max(counts.values()) - min(counts.values()) <= 2


def test_a_holder_that_is_gone_is_passed_over() -> None:
    world = three(Config(dispatch="prefix_affinity"))
    number = ask(world, (7,))
    home = world.granted[number]
    world.finish(number)
    world.send(e.StopRequested(home))
    number = ask(world, (7,))
    assert world.granted[number] != home


def ask(world: World, prefixes: tuple[int, ...]) -> int:
    number = len(world.outcome) + len(world.waiting) + len(world.granted) + 1
    world.waiting[number] = "a"
    world.send(e.RequestArrived(number, "a", prefixes=prefixes))
    return number


@settings(deadline=None)
@given(st.lists(st.integers(0, 30_000), max_size=50), st.sampled_from(("x", "y")))
def test_the_table_is_bounded(prefixes: list[int], worker: str) -> None:
    table = Affinity()
    table.note(range(MOST_PREFIXES), "z")
    table.note(prefixes, worker)
    assert len(table.holders) <= MOST_PREFIXES
    if prefixes:
        assert table.prefer(prefixes, {worker: 0, "z": 0})
