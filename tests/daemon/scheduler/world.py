"""A world for the scheduler: processes, clients and memory that only exist on paper, and the rules that must hold."""

from __future__ import annotations

from hypothesis import strategies as st

from daemon.scheduler import Config, State, decide
from daemon.scheduler import events as e
from daemon.scheduler.placement import Needs

TOTAL = 100


def sequences(actions: st.SearchStrategy[str], most: int) -> st.SearchStrategy[list[str]]:
    """Up to so many actions, each length as likely as any other: `lists` alone makes few that are long."""
    return st.integers(0, most).flatmap(lambda size: st.lists(actions, min_size=size, max_size=size))


class World:
    """Feeds events, carries out effects, and checks each of them."""

    def __init__(
        self,
        config: Config | None = None,
        models: dict[str, int] | None = None,
        replicas: dict[str, int] | None = None,
    ) -> None:
        self.config = config or Config()
        self.state = State(config=self.config)
        self.replicated = bool(replicas)
        self.now = 0.0
        self.wake = float("inf")
        self.estimates = models or {"a": 30, "b": 40, "c": 60}
        self.processes: dict[str, str] = {}
        """Live processes: `starting`, `ready` or `stopping`."""
        self.models: dict[str, str] = {}
        self.foreign: set[str] = set()
        self.waiting: dict[int, str] = {}
        self.excluding: set[int] = set()
        self.granted: dict[int, str] = {}
        self.outcome: dict[int, str] = {}
        self.suspects: set[str] = set()
        self.effects: list[e.Effect] = []
        self.spawns = 0
        self.stopped = False
        self.leaving = ""
        """Whose process is gone while that is not yet told."""
        for name, estimate in self.estimates.items():
            self.send(e.ModelDeclared(name, name, 1000.0, Needs(cpu=estimate), (replicas or {}).get(name, 1)))
        self.read_memory()

    # Events

    def send(self, event: e.Event) -> list[e.Effect]:
        self.state, effects = decide(self.state, event, self.now)
        for effect in effects:
            self._check(effect)
        self.effects += effects
        self._invariants()
        return effects

    def arrive(self, model: str, exclude: tuple[str, ...] = (), *, ends_here: bool = False) -> int:
        number = len(self.outcome) + len(self.waiting) + len(self.granted) + 1
        self.waiting[number] = model
        if exclude or ends_here:
            self.excluding.add(number)
        self.send(e.RequestArrived(number, model, exclude, ends_here=ends_here))
        return number

    def cancel(self, number: int) -> None:
        del self.waiting[number]
        self.outcome[number] = "cancelled"
        self.send(e.RequestCancelled(number))

    def finish(self, number: int, *, failed: bool = False) -> None:
        self.granted.pop(number)
        self.outcome[number] = "done"
        self.send(e.RequestDone(number, failed))

    def progress(self, worker: str) -> None:
        self.send(e.WorkerProgressed(worker))

    def ready(self, worker: str, limit: int = 2) -> None:
        self.processes[worker] = "ready"
        self.read_memory()
        self.suspects.discard(worker)
        self.send(e.WorkerReady(worker, limit))

    def exit(self, worker: str, *, fatal: bool = False, out_of_memory: bool = False) -> None:
        del self.processes[worker]
        self.suspects.discard(worker)
        self.leaving = worker
        self.read_memory()
        self.leaving = ""
        self.send(e.WorkerExited(worker, "It ended.", fatal, out_of_memory))

    def probe(self, worker: str, ok: bool) -> None:
        if ok:
            self.suspects.discard(worker)
        self.send(e.ProbeAnswered(worker, ok))

    def join(self, worker: str, *models: str, limit: int = 2) -> None:
        self.foreign.add(worker)
        self.send(e.WorkerJoined(worker, models, limit))

    def read_memory(self) -> None:
        used = sum(self.estimates[self.models[worker]] for worker in self.processes)
        self.send(e.MemoryRead({"cpu": TOTAL - used}))

    def advance(self, seconds: float) -> None:
        """Let time pass, waking the scheduler when it asked for that."""
        end = self.now + seconds
        for _ in range(3000):
            if self.wake > end:
                break
            self.now = max(self.now, self.wake)
            self.wake = float("inf")
            self.send(e.Ticked())
        self.now = end
        if self.wake <= end:
            raise AssertionError("it asks to be woken again and again")

    def settle(self) -> None:
        """The world at its best: what starts becomes ready, what runs ends, what is asked answers."""
        for _ in range(5000):
            if not self._step():
                return
        raise AssertionError(f"still moving: {self.waiting} {self.granted} {self.processes}")

    def _step(self) -> bool:
        for worker, kind in list(self.processes.items()):
            if kind == "starting":
                self.ready(worker)
                return True
            if kind == "stopping":
                self.exit(worker)
                return True
        for number in list(self.granted):
            self.finish(number)
            return True
        for worker in list(self.suspects):
            if worker in self.state.workers:
                self.probe(worker, True)
                return True
            self.suspects.discard(worker)
        if self.waiting:
            self.read_memory()
            if not self.waiting:
                return True
            assert self.wake < float("inf"), f"requests wait and nothing will happen: {self.waiting}"
            self.advance(max(0.0, self.wake - self.now))
            return True
        return False

    # Effects

    def _check(self, effect: e.Effect) -> None:
        state = self.state
        if isinstance(effect, e.Grant):
            model = self.waiting.pop(effect.id)
            assert effect.worker in self.state.workers
            assert self.processes.get(effect.worker) == "ready" or effect.worker in self.foreign
            assert effect.worker not in self.suspects
            earlier = [n for n, m in self.waiting.items() if m == model and n < effect.id and n not in self.excluding]
            assert not earlier, f"{effect.id} was served before {earlier}"
            self.granted[effect.id] = effect.worker
        elif isinstance(effect, e.Refuse):
            del self.waiting[effect.id]
            assert effect.message
            assert effect.status in (429, 503) or (effect.status, effect.code) == (508, "loop")
            self.outcome[effect.id] = f"refused {effect.status} {effect.code}"
        elif isinstance(effect, e.Spawn):
            assert effect.worker not in self.processes, "started twice"
            twins = [worker for worker in self.processes if self.models[worker] == effect.model]
            target = state.models[effect.model].target
            if self.replicated:  # a replica that is leaving is none any more
                twins = [worker for worker in twins if state.workers[worker].after != "remove"]
            assert len(twins) < max(1, target), "loaded too often"
            assert not state.stopping
            self.processes[effect.worker] = "starting"
            self.models[effect.worker] = effect.model
            self.spawns += 1
        elif isinstance(effect, e.Stop):
            worker = state.workers[effect.worker]
            silent = worker.failures >= self.config.probe_failures
            busy = worker.leases and worker.after != "death" and not silent and self.now < worker.drain_by
            assert not busy, "a busy worker was stopped"
            if effect.worker == self.leaving:
                return
            assert self.processes[effect.worker] != "stopping", "stopped twice"
            self.processes[effect.worker] = "stopping"
        elif isinstance(effect, e.Probe):
            if not state.workers[effect.worker].healthy:
                self.suspects.add(effect.worker)
        elif isinstance(effect, e.WakeAt):
            self.wake = effect.at
        elif isinstance(effect, e.AllStopped):
            assert not self.processes
            self.stopped = True
        elif isinstance(effect, e.Gone):
            self.foreign.discard(effect.worker)

    def _invariants(self) -> None:
        state = self.state
        for model in state.models.values():
            assert len(model.waiting) <= self.config.max_queue
            assert all(name in state.workers for name in model.workers)
        assert set(state.queued) == set(self.waiting)
        for worker in state.workers.values():
            assert len(worker.leases) <= worker.limit
            assert all(state.leases[lease] == worker.name for lease in worker.leases)
            alive = worker.state in ("starting", "loading", "ready", "stopping")
            if worker.local and alive and worker.name != self.leaving:
                assert worker.name in self.processes
        assert set(state.leases) == {lease for worker in state.workers.values() for lease in worker.leases}
