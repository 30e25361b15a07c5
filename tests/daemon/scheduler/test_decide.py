"""Single decisions, with their figures."""

from __future__ import annotations

from daemon.scheduler import Config
from daemon.scheduler import events as e
from tests.daemon.scheduler.world import World


def kinds(effects: list[e.Effect]) -> list[str]:
    return [type(effect).__name__ for effect in effects]


def state(world: World, worker: str) -> str:
    found = world.state.workers.get(worker)
    return found.state if found is not None else "gone"


def test_many_requests_cause_one_load_and_are_served_in_order() -> None:
    world = World()
    numbers = [world.arrive("a") for _ in range(5)]
    assert world.spawns == 1
    world.ready("a", limit=2)
    assert list(world.granted) == numbers[:2]
    world.finish(numbers[0])
    assert list(world.granted) == [numbers[1], numbers[2]]


def test_a_full_queue_refuses_with_429_and_a_time() -> None:
    world = World(Config(max_queue=2))
    for _ in range(2):
        world.arrive("a")
    world.arrive("a")
    refusal = world.effects[-1]
    assert isinstance(refusal, e.Refuse)
    assert (refusal.status, refusal.code) == (429, "overloaded")
    assert refusal.retry_after
    assert len(world.waiting) == 2


def test_a_full_queue_refuses_for_a_loaded_model_too() -> None:
    world = World(Config(max_queue=1))
    world.arrive("a")
    world.ready("a", limit=1)
    world.arrive("a")
    world.arrive("a")
    assert list(world.outcome.values()) == ["refused 429 overloaded"]


def test_restarts_back_off_and_five_deaths_fail_fast() -> None:
    world = World()
    world.arrive("a")
    world.ready("a")
    waits = []
    world.exit("a")
    assert state(world, "a") == "starting", "the first restart of a worker that served is immediate"
    for _ in range(3):
        world.exit("a")
        assert state(world, "a") == "backoff"
        waits.append(world.state.workers["a"].retry_at - world.now)
        world.advance(waits[-1])
        assert state(world, "a") == "starting"
    assert waits == [20.0, 40.0, 80.0]
    world.exit("a")
    assert state(world, "a") == "failed"
    world.advance(10_000)
    assert state(world, "a") == "failed"
    number = world.arrive("a")
    assert world.outcome[number] == "refused 503 model_failed"
    world.send(e.RestartRequested("a"))
    world.ready("a")
    assert world.arrive("a") in world.granted


def test_back_off_is_bounded() -> None:
    world = World(Config(max_deaths=20))
    world.send(e.LoadRequested("a"))
    waits = []
    for _ in range(8):
        world.exit("a")
        waits.append(world.state.workers["a"].retry_at - world.now)
        world.advance(waits[-1])
    assert waits == [10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0]


def test_a_request_ends_the_first_rest_and_no_other() -> None:
    world = World()
    world.send(e.LoadRequested("a"))
    world.exit("a")
    assert state(world, "a") == "backoff"
    number = world.arrive("a")
    assert state(world, "a") == "starting"
    world.exit("a")
    assert world.outcome[number] == "refused 503 worker_died"
    assert state(world, "a") == "backoff"
    later = world.arrive("a")
    refusal = world.effects[-1]
    assert isinstance(refusal, e.Refuse)
    assert refusal.retry_after == 20
    assert world.outcome[later] == "refused 503 worker_died"


def test_a_success_clears_the_record() -> None:
    world = World()
    for _ in range(12):
        number = world.arrive("a")
        if state(world, "a") == "starting":
            world.ready("a")
        world.finish(number)
        world.exit("a")
        assert state(world, "a") == "starting"


def test_a_worker_that_says_why_it_cannot_load_is_not_tried_again() -> None:
    world = World()
    number = world.arrive("a")
    world.exit("a", fatal=True)
    assert world.outcome[number] == "refused 503 model_failed"
    assert state(world, "a") == "failed"
    world.send(e.LoadRequested("a"))
    assert state(world, "a") == "starting", "asking for it again forgives"


def test_idle_workers_leave_after_their_time_and_busy_ones_never() -> None:
    world = World()
    number = world.arrive("a")
    world.ready("a")
    world.advance(5000)
    assert state(world, "a") == "ready"
    world.finish(number)
    world.advance(999)
    assert state(world, "a") == "ready"
    world.advance(1)
    assert state(world, "a") == "stopping"
    number = world.arrive("a")
    world.exit("a")
    world.ready("a")
    assert number in world.granted


def test_keep_alive_of_a_request_holds_from_its_end() -> None:
    world = World()
    world.waiting[1] = "a"
    world.send(e.RequestArrived(1, "a", keep_alive=0.0))
    world.ready("a")
    world.finish(1)
    assert state(world, "a") == "stopping"


def test_for_ever_means_for_ever() -> None:
    world = World()
    world.send(e.LoadRequested("a", keep_alive=float("inf")))
    world.ready("a")
    world.advance(10.0**9)
    assert state(world, "a") == "ready"


def test_the_idle_one_used_longest_ago_makes_room() -> None:
    world = World(models={"a": 30, "b": 30, "c": 30, "d": 30})
    for model in ("a", "b", "c"):
        number = world.arrive(model)
        world.ready(model)
        world.advance(1)
        world.finish(number)
    busy = world.arrive("a")
    world.arrive("d")
    assert (state(world, "a"), state(world, "b"), state(world, "c")) == ("ready", "stopping", "ready")
    assert "d" not in world.processes
    world.exit("b")
    assert world.processes["d"] == "starting"
    assert busy in world.granted


def test_a_busy_worker_finishes_before_it_makes_room() -> None:
    world = World(models={"a": 60, "b": 60})
    running = world.arrive("a")
    world.ready("a", limit=2)
    wanting = world.arrive("b")
    behind = world.arrive("a")
    assert state(world, "a") == "ready"
    assert behind in world.waiting, "what makes room takes nothing new"
    world.finish(running)
    assert state(world, "a") == "stopping"
    world.exit("a")
    world.ready("b")
    assert wanting in world.granted
    world.finish(wanting)
    world.exit("b")
    world.ready("a")
    assert behind in world.granted


def test_what_can_never_fit_is_refused_and_evicts_nobody() -> None:
    world = World(models={"a": 30, "b": 500})
    number = world.arrive("a")
    world.ready("a")
    world.finish(number)
    number = world.arrive("b")
    assert world.outcome[number] == "refused 503 out_of_memory"
    assert state(world, "a") == "ready"
    assert any(isinstance(effect, e.LoadRefused) for effect in world.effects)


def test_memory_that_was_given_back_may_take_a_moment_to_show() -> None:
    world = World(models={"a": 60, "b": 60})
    number = world.arrive("a")
    world.ready("a")
    world.finish(number)
    world.arrive("b")
    del world.processes["a"]
    world.send(e.WorkerExited("a", "stopped"))
    assert "b" not in world.processes
    world.advance(3)
    world.read_memory()
    assert world.processes["b"] == "starting"


def test_out_of_memory_is_tried_once_more_with_room_made() -> None:
    world = World()
    number = world.arrive("a")
    world.ready("a")
    world.finish(number)
    wanting = world.arrive("b")
    world.exit("b", out_of_memory=True, fatal=True)
    assert state(world, "a") == "stopping"
    assert wanting in world.waiting
    world.exit("a")
    world.advance(5)
    assert world.processes["b"] == "starting"
    world.exit("b", out_of_memory=True, fatal=True)
    assert world.outcome[wanting] == "refused 503 out_of_memory"


def test_a_load_is_given_up_only_when_nothing_moves() -> None:
    world = World()
    number = world.arrive("a")
    for _ in range(10):
        world.advance(299)
        world.progress("a")
    assert state(world, "a") == "loading"
    assert number in world.waiting
    world.advance(300)
    assert state(world, "a") == "stopping"
    world.exit("a")
    assert world.state.workers["a"].error == "Loading made no progress for 300 s."


def test_a_failed_request_takes_the_worker_out_until_it_answers() -> None:
    world = World()
    first, second = world.arrive("a"), world.arrive("a")
    world.ready("a", limit=1)
    world.finish(first, failed=True)
    assert second in world.waiting
    world.probe("a", True)
    assert second in world.granted


def test_a_worker_that_answers_no_probe_is_killed_and_started_again() -> None:
    world = World()
    number = world.arrive("a")
    world.ready("a")
    for _ in range(3):
        world.probe("a", False)
    stop = next(effect for effect in reversed(world.effects) if isinstance(effect, e.Stop))
    assert stop == e.Stop("a", 0.0)
    world.granted.pop(number)
    world.exit("a")
    assert state(world, "a") == "starting"
    assert world.state.workers["a"].error == "It did not answer 3 probes in a row."


def test_a_request_goes_to_another_worker_than_the_one_that_failed_it() -> None:
    world = World()
    for name in ("f", "g"):
        world.join(name, "x")
        world.probe(name, True)
    for _ in range(4):
        number = world.arrive("x", exclude=("f",))
        assert world.granted[number] == "g"
        world.finish(number)


def test_a_worker_elsewhere_is_lost_without_heartbeats_and_returns_by_registering() -> None:
    world = World()
    world.join("f", "x")
    world.probe("f", True)
    for _ in range(5):
        world.advance(60)
        world.send(e.WorkerBeat("f", 0))
    assert state(world, "f") == "ready"
    world.advance(90)
    assert state(world, "f") == "lost"
    number = world.arrive("x")
    assert world.outcome[number] == "refused 503 no_worker"
    world.join("f", "x")
    number = world.arrive("x")
    assert number in world.waiting, "nothing is sent before it has answered a probe"
    world.probe("f", True)
    assert number in world.granted


def test_a_worker_without_heartbeats_stays_while_it_answers() -> None:
    world = World()
    world.foreign.add("f")
    world.send(e.WorkerJoined("f", ("x",), 2, 1.0, False))
    world.probe("f", True)
    world.advance(10_000)
    assert state(world, "f") == "ready"
    for _ in range(3):
        world.probe("f", False)
    assert state(world, "f") == "lost"
    world.probe("f", True)
    assert state(world, "f") == "ready"


def joined_daemon(world: World) -> None:
    """A daemon, ready, that serves `a`, which can be loaded here, and `x`, which cannot."""
    world.foreign.add("f")
    world.send(e.WorkerJoined("f", ("a", "x"), 2, passes_on=True))
    world.probe("f", True)


def refusals(world: World, number: int) -> list[tuple[int, str]]:
    return [(each.status, each.code) for each in world.effects if isinstance(each, e.Refuse) and each.id == number]


def test_what_went_round_is_passed_on_no_more() -> None:
    world = World()
    joined_daemon(world)
    assert world.granted[world.arrive("x")] == "f"
    number = world.arrive("x", ends_here=True)
    assert refusals(world, number) == [(508, "loop")]
    assert "f" not in world.suspects, "nothing is wrong with the worker"
    world.join("g", "x", limit=1)
    world.probe("g", True)
    first, second = world.arrive("x", ends_here=True), world.arrive("x", ends_here=True)
    assert world.granted[first] == "g"
    assert second in world.waiting, "the busy one is waited for"
    assert world.granted[world.arrive("x")] == "f", "those behind it are not held up"
    world.finish(first)
    assert world.granted[second] == "g"


def test_what_went_round_is_served_by_a_model_that_is_loaded_for_it() -> None:
    world = World()
    joined_daemon(world)
    assert world.granted[world.arrive("a")] == "f"
    assert world.spawns == 0
    number = world.arrive("a", ends_here=True)
    assert world.spawns == 1
    world.ready("a")
    assert world.granted[number] == "a"
    world.exit("a")
    again = world.arrive("a", ends_here=True)
    world.settle()
    assert world.outcome[again] == "done"


def test_shortest_queue_counts_what_it_sent_and_speed() -> None:
    world = World()
    for name, speed in (("f", 1.0), ("g", 3.0)):
        world.foreign.add(name)
        world.send(e.WorkerJoined(name, ("x",), 100, speed))
        world.probe(name, True)
    for _ in range(8):
        world.arrive("x")
    shares = sorted(world.granted.values())
    assert (shares.count("f"), shares.count("g")) == (2, 6)


def test_lying_reports_change_nothing_but_the_order() -> None:
    world = World()
    for name in ("f", "g"):
        world.foreign.add(name)
        world.send(e.WorkerJoined(name, ("x",), 4, float("nan")))
        world.probe(name, True)
        for _ in range(2):
            world.send(e.WorkerBeat(name, 10**15 if name == "f" else -(10**15)))
    numbers = [world.arrive("x") for _ in range(8)]
    assert sorted(world.granted.values()) == ["f"] * 4 + ["g"] * 4
    for number in numbers:
        world.finish(number)


def test_lottery_follows_speed() -> None:
    world = World(Config(dispatch="lottery"))
    for name, speed in (("f", 1.0), ("g", 9.0)):
        world.foreign.add(name)
        world.send(e.WorkerJoined(name, ("x",), 10_000, speed))
        world.probe(name, True)
    for _ in range(1000):
        world.arrive("x")
    assert 50 < list(world.granted.values()).count("f") < 160


def test_stop_refuses_what_waits_and_lets_what_runs_finish() -> None:
    world = World()
    running = world.arrive("a")
    world.ready("a", limit=1)
    waiting = world.arrive("a")
    world.send(e.StopAll(30.0))
    assert world.outcome[waiting] == "refused 503 shutting_down"
    assert state(world, "a") == "ready"
    world.finish(running)
    assert state(world, "a") == "stopping"
    world.exit("a")
    assert world.stopped


def test_stop_ends_at_the_deadline() -> None:
    world = World()
    world.arrive("a")
    world.ready("a")
    world.send(e.StopAll(30.0))
    world.advance(29)
    assert state(world, "a") == "ready"
    world.advance(1)
    assert state(world, "a") == "stopping"


def test_unload_waits_for_what_runs() -> None:
    world = World()
    number = world.arrive("a")
    world.ready("a")
    world.send(e.UnloadRequested("a"))
    assert state(world, "a") == "ready"
    world.finish(number)
    assert state(world, "a") == "stopping"
    world.exit("a")
    assert state(world, "a") == "gone"


def test_load_of_what_is_loaded_changes_nothing() -> None:
    world = World()
    world.send(e.LoadRequested("a"))
    world.ready("a")
    assert kinds(world.send(e.LoadRequested("a"))) == []
    assert world.spawns == 1


def test_a_request_does_not_wait_for_a_busy_worker_for_ever() -> None:
    world = World(Config(max_wait_s=100))
    world.arrive("a")
    world.ready("a", limit=1)
    number = world.arrive("a")
    world.advance(99)
    assert number in world.waiting
    world.advance(10)
    assert world.outcome[number] == "refused 503 overloaded"
