"""Sleep and wake: whose GPU memory is lent to whom, and what must hold whatever happens."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.scheduler import Config
from daemon.scheduler import events as e
from daemon.scheduler.placement import CPU, Needs
from daemon.scheduler.sleep import RESIDUE_BYTES
from tests.daemon.scheduler.world import World

G = 2**30
GPU = "GPU-a"
MODELS = {"a": 30, "b": 40, "c": 60}
CONFIG = Config(max_queue=6, max_wait_s=50.0, load_stall_s=30.0, drain_s=5.0, stable_s=15.0, sleep_ttl_s=100.0)


class SleepWorld(World):
    """One GPU and RAM; every worker can sleep. Processes may also be `sleeping`, `asleep` and `waking`."""

    def __init__(self, config: Config = CONFIG, *, gpu: int = 80, ram: int = 64, sleeps: bool = True) -> None:
        self.total = {CPU: ram * G, GPU: gpu * G}
        self.claims: dict[str, dict[str, int]] = {}
        self.started: set[str] = set()
        self.ended_asleep: set[str] = set()
        self.sleeps = sleeps
        self.others = 0
        super().__init__(config, {name: size * G for name, size in MODELS.items()})
        for name, size in MODELS.items():
            needs = Needs(gpu=size * G, allow_cpu=False, rest=size * G // 2)
            self.send(e.ModelDeclared(name, name, 10.0, needs))

    def used(self) -> dict[str, int]:
        used = {CPU: 0, GPU: self.others}
        for worker, kind in self.processes.items():
            taken = self.claims.get(worker, {}).get(GPU, 0)
            if kind == "asleep" or worker in self.ended_asleep:
                used[GPU] += min(RESIDUE_BYTES, taken)
                used[CPU] += self.estimates[self.models[worker]] // 2
            else:
                used[GPU] += taken
        return used

    def read_memory(self) -> None:
        used = self.used()
        self.send(e.MemoryRead({device: size - used[device] for device, size in self.total.items()}))

    def ready(self, worker: str, limit: int = 2) -> None:
        self.processes[worker] = "ready"
        self.read_memory()
        self.suspects.discard(worker)
        self.send(e.WorkerReady(worker, limit, sleeps=self.sleeps))

    def exit(self, worker: str, *, fatal: bool = False, out_of_memory: bool = False) -> None:
        self.claims.pop(worker, None)
        self.ended_asleep.discard(worker)
        super().exit(worker, fatal=fatal, out_of_memory=out_of_memory)

    def turned(self, worker: str, *, ok: bool = True) -> None:
        """What was asked of it is done."""
        kind = self.processes[worker]
        if kind == "sleeping":
            self.processes[worker] = "asleep" if ok else "ready"
            self.read_memory()
            self.send(e.WorkerSlept(worker, ok, "" if ok else "It would not."))
        elif kind == "waking":
            self.processes[worker] = "ready" if ok else "asleep"
            self.read_memory()
            self.send(e.WorkerWoke(worker, ok, "" if ok else "It would not."))

    def turning(self) -> list[str]:
        return [worker for worker, kind in self.processes.items() if kind in ("sleeping", "waking")]

    def _step(self) -> bool:
        for worker in self.turning():
            self.turned(worker)
            return True
        return super()._step()

    def _check(self, effect: e.Effect) -> None:
        if isinstance(effect, e.Sleep):
            worker = self.state.workers[effect.worker]
            assert self.processes[effect.worker] == "ready", "put to sleep twice"
            assert not worker.leases, "a busy worker was put to sleep"
            self.processes[effect.worker] = "sleeping"
        elif isinstance(effect, e.Wake):
            assert self.processes[effect.worker] == "asleep", "woken twice"
            self.processes[effect.worker] = "waking"
            self._has_room()
        else:
            if isinstance(effect, e.Stop) and self.processes[effect.worker] == "asleep":
                self.ended_asleep.add(effect.worker)
            super()._check(effect)
            if isinstance(effect, e.Spawn):
                self.claims[effect.worker] = dict(effect.claims)
                # One that ended is tried where it was, whatever has become of its memory since.
                if effect.worker not in self.started:
                    self._has_room()
                self.started.add(effect.worker)
            elif isinstance(effect, e.Gone):
                self.started.discard(effect.worker)

    def _has_room(self) -> None:
        used = self.used()
        assert used[GPU] <= self.total[GPU], "two were promised the same bytes"


def served(world: SleepWorld, model: str) -> None:
    """One request, from arrival to its end."""
    number = world.arrive(model)
    world.settle()
    assert world.outcome[number] == "done"


def test_an_idle_worker_sleeps_wakes_for_a_request_and_is_unloaded_in_the_end() -> None:
    world = SleepWorld()
    served(world, "a")
    world.advance(10.1)
    assert world.processes == {"a": "sleeping"}
    number = world.arrive("a")
    assert number in world.waiting, "it waits until the worker has lain down"
    world.turned("a")
    assert world.processes == {"a": "waking"}
    world.turned("a")
    assert number in world.granted
    world.finish(number)
    assert world.spawns == 1
    world.advance(10.1)
    world.turned("a")
    assert world.state.workers["a"].state == "asleep"
    world.advance(100.1)
    assert world.processes == {"a": "stopping"}


def test_memory_that_another_model_needs_is_lent_by_sleep_and_not_taken() -> None:
    world = SleepWorld()
    served(world, "b")
    number = world.arrive("c")
    assert world.processes == {"b": "sleeping"}
    world.turned("b")
    assert world.processes == {"b": "asleep", "c": "starting"}
    world.ready("c")
    world.finish(number)
    back = world.arrive("b")
    assert world.processes == {"b": "asleep", "c": "sleeping"}, "b wakes only where there is room"
    world.turned("c")
    assert world.processes == {"b": "waking", "c": "asleep"}
    world.turned("b")
    assert back in world.granted
    assert world.spawns == 2


def test_without_room_in_ram_it_leaves_instead() -> None:
    world = SleepWorld(ram=10)
    served(world, "b")
    world.arrive("c")
    assert world.processes == {"b": "stopping"}
    world = SleepWorld(ram=10)
    served(world, "b")
    world.advance(10.1)
    assert world.processes == {"b": "stopping"}


def test_workers_that_cannot_sleep_and_settings_that_forbid_it_are_kept() -> None:
    for world in (SleepWorld(sleeps=False), SleepWorld(Config(sleep_ttl_s=0.0))):
        served(world, "a")
        world.advance(10.1)
        assert world.processes == {"a": "stopping"}


def test_keep_alive_of_nothing_unloads() -> None:
    world = SleepWorld()
    world.send(e.LoadRequested("a", 0.0))
    world.settle()
    world.advance(0.1)
    assert world.processes.get("a") in ("stopping", None)


def test_one_that_will_not_lie_down_is_unloaded() -> None:
    world = SleepWorld()
    served(world, "a")
    world.advance(10.1)
    world.turned("a", ok=False)
    assert world.processes == {"a": "stopping"}
    world.exit("a")
    assert not world.state.workers


def test_one_that_will_not_wake_is_loaded_again_and_nobody_is_lost() -> None:
    world = SleepWorld()
    served(world, "a")
    world.advance(10.1)
    world.turned("a")
    number = world.arrive("a")
    world.turned("a", ok=False)
    assert world.processes == {"a": "stopping"}
    world.exit("a")
    assert world.processes == {"a": "starting"}
    world.settle()
    assert world.outcome[number] == "done"


def test_one_that_dies_in_its_sleep_stays_away_until_it_is_wanted() -> None:
    world = SleepWorld()
    served(world, "a")
    world.advance(10.1)
    world.turned("a")
    world.exit("a")
    assert not world.processes
    assert not world.state.workers
    served(world, "a")
    assert world.spawns == 2


def test_when_others_have_taken_its_place_for_good_it_is_loaded_anew() -> None:
    world = SleepWorld()
    served(world, "c")
    world.advance(10.1)
    world.turned("c")
    world.others = 30 * G
    world.read_memory()
    number = world.arrive("c")
    world.advance(10.0)
    world.settle()
    assert world.outcome[number].startswith("refused 503 out_of_memory"), "and there it does not fit either"
    assert not world.processes


def test_a_load_wakes_too() -> None:
    world = SleepWorld()
    served(world, "a")
    world.advance(10.1)
    world.turned("a")
    world.send(e.LoadRequested("a"))
    assert world.processes == {"a": "waking"}
    world.turned("a")
    assert not world.state.models["a"].wanted


def test_an_unload_of_one_that_sleeps_ends_it() -> None:
    world = SleepWorld()
    served(world, "a")
    world.advance(10.1)
    world.turned("a")
    world.send(e.UnloadRequested("a"))
    assert world.processes == {"a": "stopping"}


def test_probes_that_fail_while_it_turns_say_nothing_and_while_it_sleeps_end_it() -> None:
    world = SleepWorld()
    served(world, "a")
    world.advance(10.1)
    for _ in range(5):
        world.probe("a", False)
    assert world.processes == {"a": "sleeping"}
    world.turned("a")
    for _ in range(3):
        world.probe("a", False)
    assert world.processes == {"a": "stopping"}


ACTIONS = st.sampled_from(
    ("arrive", "arrive", "arrive", "cancel", "finish", "finish", "ready", "ready", "turn", "turn", "turn", "refuse",
     "exit", "advance", "advance", "load", "unload", "restart", "remove", "probe", "others")
)  # fmt: skip


def act(world: SleepWorld, action: str, data: st.DataObject) -> None:
    starting = [name for name, kind in world.processes.items() if kind == "starting"]
    turning = world.turning()
    if action == "arrive":
        world.arrive(data.draw(st.sampled_from(sorted(MODELS))))
    elif action == "cancel" and world.waiting:
        world.cancel(data.draw(st.sampled_from(sorted(world.waiting))))
    elif action == "finish" and world.granted:
        world.finish(data.draw(st.sampled_from(sorted(world.granted))), failed=data.draw(st.booleans()))
    elif action == "ready" and starting:
        world.ready(data.draw(st.sampled_from(starting)), limit=data.draw(st.integers(1, 3)))
    elif action in ("turn", "refuse") and turning:
        world.turned(data.draw(st.sampled_from(turning)), ok=action == "turn")
    elif action == "exit" and world.processes:
        world.exit(data.draw(st.sampled_from(sorted(world.processes))))
    elif action == "advance":
        world.advance(data.draw(st.sampled_from((0.1, 1.0, 7.0, 11.0, 31.0, 120.0))))
    elif action == "load":
        world.send(e.LoadRequested(data.draw(st.sampled_from(sorted(MODELS))), data.draw(st.sampled_from((None, 3.0)))))
    elif action == "unload":
        world.send(e.UnloadRequested(data.draw(st.sampled_from(sorted(MODELS)))))
    elif action in ("restart", "remove", "probe") and world.state.workers:
        name = data.draw(st.sampled_from(sorted(world.state.workers)))
        if action == "probe":
            world.probe(name, data.draw(st.booleans()))
        else:
            world.send(e.RestartRequested(name) if action == "restart" else e.StopRequested(name))
    elif action == "others":
        # Somebody else takes some of the GPU, of what is free.
        room = world.total[GPU] - world.used()[GPU] + world.others
        world.others = min(room, data.draw(st.sampled_from((0, 5 * G, 25 * G))))
        world.read_memory()


@settings(max_examples=300, deadline=None)
@given(st.lists(ACTIONS, max_size=60), st.sampled_from((10, 40, 200)), st.data())
def test_no_request_is_lost_and_no_byte_is_promised_twice(actions: list[str], ram: int, data: st.DataObject) -> None:
    """`SleepWorld` checks each effect: never a busy one asleep, no double wake, no device over-committed."""
    world = SleepWorld(ram=ram)
    for action in actions:
        act(world, action, data)
    world.others = 0
    world.read_memory()
    world.settle()
    assert not world.waiting
    assert not world.state.leases


@settings(max_examples=100, deadline=None)
@given(st.lists(ACTIONS, max_size=40), st.data())
def test_stop_ends_those_that_sleep_too(actions: list[str], data: st.DataObject) -> None:
    world = SleepWorld()
    for action in actions:
        act(world, action, data)
    world.send(e.StopAll(2.0))
    world.advance(2.0)
    for worker in [name for name, kind in world.processes.items() if kind == "stopping"]:
        world.exit(worker)
    assert not world.processes
    assert world.stopped
