"""Where models go: filter, fit, score; reservations; who leaves."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.scheduler import Config, State, decide
from daemon.scheduler import events as e
from daemon.scheduler.placement import SPREAD_BYTES, Needs, plan, shortage

G = 2**30
TWO = {"cpu": 64 * G, "GPU-a": 10 * G, "GPU-b": 20 * G}


class Machine:
    """Free bytes that loads take and exits give back, as the scheduler would read them."""

    def __init__(self, free: dict[str, int], **models: Needs) -> None:
        self.free = dict(free)
        self.state = State(config=Config(settle_s=0.0))
        self.effects: list[e.Effect] = []
        self.now = 0.0
        self.number = 0
        for name, needs in models.items():
            self.send(e.ModelDeclared(name, name, 1000.0, needs))
        self.read()

    def send(self, event: e.Event) -> list[e.Effect]:
        self.now += 1
        self.state, effects = decide(self.state, event, self.now)
        self.effects += effects
        return effects

    def read(self) -> None:
        self.send(e.MemoryRead(self.free))

    def arrive(self, model: str) -> int:
        self.number += 1
        self.send(e.RequestArrived(self.number, model))
        return self.number

    def ready(self, worker: str) -> None:
        for device, size in self.state.workers[worker].claims.items():
            self.free[device] -= size
        self.read()
        self.send(e.WorkerReady(worker, 4))

    def load(self, model: str) -> e.Spawn:
        self.send(e.RequestDone(self.arrive(model)))
        spawn = self.last(e.Spawn)
        if self.state.workers[spawn.worker].state != "ready":
            self.ready(spawn.worker)
        self.send(e.RequestDone(self.number))
        return spawn

    def exit(self, worker: str, **how: bool) -> None:
        if self.state.workers[worker].serving:
            for device, size in self.state.workers[worker].claims.items():
                self.free[device] += size
        self.read()
        self.send(e.WorkerExited(worker, "It ended.", **how))

    def last(self, kind: type[e.Spawn]) -> e.Spawn:
        return next(effect for effect in reversed(self.effects) if isinstance(effect, kind))

    def spawned(self) -> list[tuple[str, ...]]:
        return [effect.gpus for effect in self.effects if isinstance(effect, e.Spawn)]

    def refusals(self) -> list[e.Refuse]:
        return [effect for effect in self.effects if isinstance(effect, e.Refuse)]


def test_one_gpu_with_the_most_room_before_several_before_ram() -> None:
    assert plan(Needs(gpu=5 * G, cpu=9 * G), TWO) == {"GPU-b": 5 * G}
    spread = plan(Needs(gpu=25 * G, cpu=40 * G), TWO)
    assert spread is not None
    assert list(spread) == ["GPU-a", "GPU-b"]
    assert abs(sum(spread.values()) - 25 * G - SPREAD_BYTES) < 4
    assert plan(Needs(gpu=40 * G, cpu=40 * G), TWO) == {"cpu": 40 * G}
    assert plan(Needs(gpu=40 * G, cpu=80 * G), TWO) is None
    assert plan(Needs(gpu=40 * G, cpu=40 * G, allow_cpu=False), TWO) is None


def test_pins_counts_and_caps_are_kept() -> None:
    assert plan(Needs(gpu=5 * G, pins=("0",)), TWO) == {"GPU-a": 5 * G}
    assert plan(Needs(gpu=5 * G, pins=("GPU-a",)), TWO) == {"GPU-a": 5 * G}
    assert plan(Needs(gpu=15 * G, pins=("0",), allow_cpu=False), TWO) is None
    assert plan(Needs(gpu=5 * G, pins=("7",), allow_cpu=False), TWO) is None
    both = plan(Needs(gpu=5 * G, count=2), TWO)
    assert both is not None
    assert set(both) == {"GPU-a", "GPU-b"}
    assert plan(Needs(gpu=9 * G, cap=8 * G, allow_cpu=False, count=1), TWO) is None
    assert plan(Needs(gpu=5 * G, cpu=G, allow_gpu=False), TWO) == {"cpu": G}
    assert plan(Needs(), {}) == {"cpu": 0}


@given(
    st.integers(0, 50), st.integers(0, 50), st.lists(st.integers(0, 30), max_size=4), st.integers(0, 3),
    st.integers(0, 20),
)  # fmt: skip
def test_what_is_planned_is_there(gpu: int, cpu: int, cards: list[int], count: int, cap: int) -> None:
    free = {"cpu": 30 * G, **{f"GPU-{number}": size * G for number, size in enumerate(cards)}}
    needs = Needs(gpu=gpu * G, cpu=cpu * G, count=count, cap=cap * G)
    claims = plan(needs, free)
    if claims is None:
        assert cpu > 30
        assert shortage(needs, free)
        return
    assert all(size <= free[device] for device, size in claims.items())
    if "cpu" in claims:
        assert claims == {"cpu": cpu * G}
    else:
        assert sum(claims.values()) >= gpu * G - len(claims)
        assert not cap or all(size <= cap * G for size in claims.values())
        assert not count or len(claims) == count
        if len(claims) > 1 and not count:
            assert all(min(size, cap or size) < gpu for size in cards), "one would have done"


def test_two_loads_do_not_claim_the_same_bytes() -> None:
    machine = Machine(TWO, a=Needs(gpu=15 * G, cpu=200 * G), b=Needs(gpu=8 * G, cpu=200 * G), c=Needs(gpu=8 * G))
    for model in ("a", "b", "c"):
        machine.arrive(model)
    assert machine.spawned() == [("GPU-b",), ("GPU-a",)], "what is left of each is not enough for c"
    machine.ready("b")
    assert machine.state.workers["b"].draining, "idle, and its room is what c waits for"


def test_a_model_that_waits_for_a_gpu_keeps_it_from_those_behind_it() -> None:
    only = {"cpu": 4 * G, "GPU-a": 10 * G}
    machine = Machine(only, a=Needs(gpu=9 * G, cpu=90 * G), b=Needs(gpu=8 * G, cpu=90 * G), c=Needs(gpu=G, cpu=90 * G))
    running = machine.arrive("a")
    machine.ready("a")
    machine.arrive("b")
    machine.arrive("c")
    assert machine.spawned() == [("GPU-a",)]
    machine.send(e.RequestDone(running))
    machine.exit("a")
    assert machine.spawned() == [("GPU-a",), ("GPU-a",), ("GPU-a",)]
    assert [effect.model for effect in machine.effects if isinstance(effect, e.Spawn)] == ["a", "b", "c"]


def test_only_those_leave_whose_memory_is_needed() -> None:
    machine = Machine(TWO, a=Needs(gpu=9 * G), b=Needs(gpu=18 * G), c=Needs(gpu=15 * G))
    machine.load("b")
    machine.load("a")
    assert machine.spawned() == [("GPU-b",), ("GPU-a",)]
    machine.state.workers["a"].idle_since = 0.0
    machine.state.models["c"].needs = machine.state.models["c"].declared = Needs(gpu=15 * G, allow_cpu=False)
    machine.arrive("c")
    assert machine.state.workers["a"].state == "ready", "it was used longest ago, but its GPU is too small"
    assert machine.state.workers["b"].state == "stopping"
    machine.exit("b")
    assert machine.last(e.Spawn).gpus == ("GPU-b",)


def test_ram_is_taken_when_no_gpu_could_ever_hold_it() -> None:
    machine = Machine({"cpu": 64 * G, "GPU-a": 8 * G}, a=Needs(gpu=20 * G, cpu=30 * G))
    machine.arrive("a")
    spawn = machine.last(e.Spawn)
    assert (spawn.gpus, spawn.in_ram) == ((), True)


def test_what_fits_nowhere_is_refused_with_the_numbers() -> None:
    machine = Machine({"cpu": 4 * G, "GPU-a": 8 * G}, a=Needs(gpu=20 * G, cpu=30 * G), b=Needs(pins=("3",), gpu=G))
    machine.arrive("a")
    (refusal,) = machine.refusals()
    assert (refusal.status, refusal.code) == (503, "out_of_memory")
    for words in ("20.0 GiB of GPU memory", "GPU 0: 8.0 GiB free", "30.0 GiB of RAM (4.0 GiB free)"):
        assert words in refusal.message
    machine.send(e.ModelDeclared("b", "b", 1.0, Needs(pins=("3",), gpu=G, allow_cpu=False)))
    machine.arrive("b")
    assert "pinned to GPU 3, and this machine has 1" in machine.refusals()[-1].message


def test_after_out_of_memory_it_is_tried_once_where_there_is_more() -> None:
    machine = Machine(TWO, a=Needs(gpu=18 * G, cpu=100 * G))
    number = machine.arrive("a")
    assert machine.last(e.Spawn).gpus == ("GPU-b",)
    machine.exit("a", out_of_memory=True, fatal=True)
    machine.now += 10
    machine.send(e.Ticked())
    assert machine.last(e.Spawn).gpus == ("GPU-a", "GPU-b"), "half as much again needs both"
    machine.exit("a", out_of_memory=True, fatal=True)
    (refusal,) = machine.refusals()
    assert (refusal.id, refusal.code) == (number, "out_of_memory")
    assert "27.0 GiB of GPU memory" in refusal.message
    assert machine.state.workers["a"].state == "failed"


def test_what_a_load_has_taken_already_is_not_counted_twice() -> None:
    machine = Machine({"cpu": 10 * G}, a=Needs(cpu=4 * G), b=Needs(cpu=4 * G), c=Needs(cpu=4 * G))
    machine.arrive("a")
    machine.free["cpu"] = 7 * G
    machine.read()
    machine.arrive("b")
    assert len(machine.spawned()) == 2, "three of its four are taken, and one more is left to a"
    machine.arrive("c")
    assert len(machine.spawned()) == 2
    machine.free["cpu"] = 6 * G
    machine.read()
    machine.send(e.WorkerReady("a", 4))
    assert len(machine.spawned()) == 2, "b has taken nothing yet, and its four are still promised"
    assert not machine.refusals(), "a, once it rests, makes room for c"


CARDS = st.lists(st.integers(0, 30), max_size=8)
SPLITS = st.sampled_from(((), (1, 2, 4, 8), (1, 2, 4, 8, 3, 6), (1,)))


@settings(deadline=None)
@given(
    st.integers(0, 60), st.integers(0, 90), CARDS, SPLITS, st.booleans(), st.sets(st.integers(0, 7)),
)  # fmt: skip
def test_what_is_cut_over_gpus_fits_each_of_them(
    gpu: int, wish: int, cards: list[int], splits: tuple[int, ...], even: bool, sliced: set[int]
) -> None:
    free = {f"{'MIG' if number in sliced else 'GPU'}-{number}": size * G for number, size in enumerate(cards)}
    needs = Needs(gpu=gpu * G, allow_cpu=False, splits=splits, even=even, wish=wish * G)
    claims = plan(needs, free)
    assert claims == plan(needs, dict(free)), "the same each time"
    if claims is None:
        assert all(size < gpu for size in cards) or 1 not in (splits or (1,)), "one would have done"
        return
    assert all(0 <= size <= free[device] for device, size in claims.items())
    assert sum(claims.values()) >= gpu * G - len(claims)
    assert not splits or len(claims) in splits
    if len(claims) > 1:
        assert all(size < gpu for size in cards), "never cut where one holds it"
        assert not any(device.startswith("MIG-") for device in claims)
    if even:
        assert len(set(claims.values())) == 1
    most = max(gpu, wish) * G + SPREAD_BYTES * (len(claims) - 1)
    assert sum(claims.values()) <= most + len(claims), "no more than it has a use for"


def test_powers_of_two_come_before_odd_numbers() -> None:
    free = {f"GPU-{number}": 20 * G for number in range(4)}
    assert len(plan(Needs(gpu=50 * G, splits=(1, 2, 4, 3), even=True), free) or {}) == 4
    free.pop("GPU-3")
    assert len(plan(Needs(gpu=50 * G, splits=(1, 2, 4, 3), even=True), free) or {}) == 3


def test_several_models_share_a_gpu_by_what_each_needs() -> None:
    machine = Machine(
        {"cpu": 64 * G, "GPU-a": 80 * G}, a=Needs(gpu=20 * G, wish=40 * G, even=True), b=Needs(gpu=30 * G, even=True)
    )
    machine.load("a")
    machine.load("b")
    assert [dict(each.claims) for each in machine.effects if isinstance(each, e.Spawn)] == [
        {"GPU-a": 40 * G}, {"GPU-a": 30 * G},
    ]  # fmt: skip


def test_what_others_hold_is_not_counted_on() -> None:
    machine = Machine({"GPU-a": 12 * G}, a=Needs(gpu=10 * G, wish=70 * G, even=True, allow_cpu=False))
    machine.load("a")
    assert machine.last(e.Spawn).claims == {"GPU-a": 12 * G}


def test_two_on_one_device_do_not_both_plan_with_all_of_it() -> None:
    needs = Needs(cpu=2 * G, kv=G)
    machine = Machine({"cpu": 22 * G}, a=needs, b=needs, c=needs)
    budgets = []
    for model in ("a", "b", "c"):
        # Its KV cache takes memory only as it is used: none of it yet.
        machine.load(model)
        budgets.append(machine.last(e.Spawn).kv_bytes)
    assert budgets[0] == int(0.4 * 21 * G)
    assert budgets == sorted(budgets, reverse=True)
    assert sum(budgets) + 3 * G <= 22 * G
    unknown = Machine({}, a=needs)
    unknown.arrive("a")
    assert unknown.last(e.Spawn).kv_bytes == 0, "where nothing is known, the worker decides"


def test_a_kv_budget_is_never_less_than_the_least() -> None:
    machine = Machine({"cpu": 4 * G}, a=Needs(cpu=4 * G, kv=2 * G))
    assert machine.load("a").kv_bytes == 2 * G
