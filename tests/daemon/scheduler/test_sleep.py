"""Sleep and wake: whose GPU memory is lent to whom, and what must hold whatever happens."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.scheduler import Config
from daemon.scheduler import events as e
from daemon.scheduler.placement import CPU, Needs
from daemon.scheduler.sleep import RESIDUE_BYTES
from tests.daemon.scheduler.world import World, sequences

G = 2**30
GPU = "GPU-a"
MODELS = {"a": 30, "b": 40, "c": 60}
CONFIG = Config(max_queue=6, max_wait_s=50.0, load_stall_s=30.0, drain_s=5.0, stable_s=15.0, sleep_ttl_s=100.0)


class SleepWorld(World):
    """One GPU and RAM; every worker can sleep. Processes may also be `sleeping`, `asleep` and `waking`.

    A `gradual` one shows of what a worker was promised only the part that it has taken so far.
    """

    def __init__(
        self, config: Config = CONFIG, *, gpu: int = 80, ram: int = 64, sleeps: bool = True, gradual: bool = False
    ) -> None:
        self.total = {CPU: ram * G, GPU: gpu * G}
        self.claims: dict[str, dict[str, int]] = {}
        self.ended_asleep: set[str] = set()
        self.gradual = gradual
        self.parts: dict[str, float] = {}
        """Of those that load or wake: how much of their GPU memory they have taken."""
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
        if self.gradual:
            used[GPU] -= sum(self._to_come(worker) for worker in self.taking())
        self.send(e.MemoryRead({device: size - used[device] for device, size in self.total.items()}))

    def taking(self) -> list[str]:
        return [worker for worker, kind in self.processes.items() if kind in ("starting", "waking")]

    def _to_come(self, worker: str) -> int:
        taken = self.claims[worker].get(GPU, 0)
        kept = 0 if self.processes[worker] == "starting" else min(RESIDUE_BYTES, taken)
        return int((taken - kept) * (1 - self.parts[worker]))

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
            if ok:
                self.suspects.discard(worker)
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
            assert not worker.leases, "a busy worker was put to sleep"
            if effect.worker == self.leaving:
                return
            assert self.processes[effect.worker] == "ready", "put to sleep twice"
            self.processes[effect.worker] = "sleeping"
        elif isinstance(effect, e.Wake):
            if effect.worker == self.leaving:
                return
            assert self.processes[effect.worker] == "asleep", "woken twice"
            self.processes[effect.worker] = "waking"
            self.parts[effect.worker] = 0.0
            self._has_room()
        else:
            if isinstance(effect, e.Stop) and self.processes.get(effect.worker) == "asleep":
                self.ended_asleep.add(effect.worker)
            super()._check(effect)
            if isinstance(effect, e.Spawn):
                self.parts[effect.worker] = 0.0
                self.claims[effect.worker] = dict(effect.claims)
                self._has_room()

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


def test_what_others_took_during_a_load_that_ended_is_not_credited_to_the_next() -> None:
    world = SleepWorld()
    number = world.arrive("a")
    world.others = 25 * G
    world.read_memory()
    world.arrive("b")
    world.send(e.StopRequested("a"))
    world.exit("a")
    assert world.processes == {"b": "starting"}, "25 are gone, 40 are promised: there is no room for 30"
    world.settle()
    assert world.outcome[number] == "done"


def test_what_others_took_is_not_credited_to_a_load_that_has_taken_little_yet() -> None:
    world = SleepWorld(gradual=True)
    world.arrive("a")
    world.parts["a"] = 1.0
    world.others = 25 * G
    world.read_memory()
    world.arrive("b")
    world.send(e.StopRequested("a"))
    world.exit("a")
    world.parts["b"] = 0.25
    world.read_memory()
    assert world.processes == {"b": "starting"}


def test_one_whose_memory_was_taken_while_it_was_gone_is_loaded_where_there_is_room() -> None:
    world = SleepWorld()
    served(world, "a")
    world.advance(20.0)
    world.turned("a")
    world.send(e.LoadRequested("a"))
    world.turned("a")
    world.exit("a")
    assert world.processes == {"a": "starting"}
    world.exit("a")
    assert world.state.workers["a"].state == "backoff"
    served(world, "c")
    number = world.arrive("c")
    world.advance(20.0)
    assert world.processes == {"c": "ready"}, "nobody waits for it: it does not push others out"
    assert "a" not in world.state.workers
    refused = [effect for effect in world.effects if isinstance(effect, e.LoadRefused)]
    assert [effect.model for effect in refused] == ["a"]
    assert "The next request loads it." in refused[0].message
    world.finish(number)
    served(world, "a")


def test_one_that_is_waited_for_and_finds_its_place_taken_gets_its_turn() -> None:
    world = SleepWorld(sleeps=False)
    number = world.arrive("a")
    world.others = 55 * G
    world.exit("a")
    assert not world.processes, "it may be that its own memory only looks taken"
    assert number in world.waiting
    world.others = 0
    world.read_memory()
    other = world.arrive("c")
    assert world.processes == {"c": "starting"}
    world.advance(6.0)
    assert world.processes == {"c": "starting"}
    world.settle()
    assert world.outcome[other] == "done"
    assert world.outcome[number] == "done"


def test_a_model_is_not_loaded_anew_beside_its_worker_that_leaves_in_its_sleep() -> None:
    world = SleepWorld(ram=40)
    served(world, "a")
    world.arrive("c")
    number = world.arrive("a")
    world.turned("a")
    assert world.processes == {"a": "asleep", "c": "starting"}
    world.send(e.UnloadRequested("a"))
    world.ready("c")
    world.exit("c")
    assert world.processes["a"] == "stopping"
    assert "a-2" not in world.processes
    world.settle()
    assert world.outcome[number] == "done"


def test_a_sleeper_that_is_to_wake_and_is_restarted_is_loaded_once() -> None:
    world = SleepWorld()
    world.arrive("b")
    world.arrive("a")
    world.ready("a")
    world.finish(2)
    world.advance(10.1)
    world.turned("a")
    world.send(e.StopRequested("b"))
    number = world.arrive("a")
    assert world.processes == {"b": "stopping", "a": "asleep"}
    world.send(e.RestartRequested("a"))
    world.settle()
    assert world.outcome[number] == "done"
    assert [name for name in world.state.workers if world.models[name] == "a"] == ["a"]


ACTIONS = st.sampled_from(
    ("arrive", "arrive", "arrive", "cancel", "finish", "finish", "ready", "ready", "turn", "turn", "turn", "refuse",
     "exit", "advance", "advance", "load", "unload", "restart", "remove", "probe", "others", "progress", "progress")
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
    elif action == "progress" and world.taking():
        worker = data.draw(st.sampled_from(world.taking()))
        world.parts[worker] = max(world.parts[worker], data.draw(st.sampled_from((0.2, 0.5, 0.9, 1.0))))
        world.read_memory()
    elif action == "others" and not (world.gradual and world.taking()):
        # What others take while something loads looks like its doing: nobody could tell them apart.
        # Somebody else takes some of the GPU, of what is free.
        room = world.total[GPU] - world.used()[GPU] + world.others
        world.others = min(room, data.draw(st.sampled_from((0, 5 * G, 25 * G))))
        world.read_memory()


@settings(max_examples=300, deadline=None)
@given(sequences(ACTIONS, 60), st.sampled_from((10, 40, 200)), st.booleans(), st.data())
def test_no_request_is_lost_and_no_byte_is_promised_twice(
    actions: list[str], ram: int, gradual: bool, data: st.DataObject
) -> None:
    """`SleepWorld` checks each effect: never a busy one asleep, no double wake, no device over-committed."""
    world = SleepWorld(ram=ram, gradual=gradual)
    for action in actions:
        act(world, action, data)
    world.others = 0
    world.read_memory()
    world.settle()
    assert not world.waiting
    assert not world.state.leases


@settings(max_examples=100, deadline=None)
@given(sequences(ACTIONS, 40), st.data())
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
