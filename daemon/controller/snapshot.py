"""What people and screens see of a worker: one frozen picture from the scheduler, the registry and the process."""

from __future__ import annotations

import time

from daemon.controller.registry import Record
from daemon.controller.sizes import config_notes
from daemon.scheduler import State, Worker
from daemon.scheduler.placement import gpus
from daemon.supervisor.launch import LaunchSpec
from daemon.supervisor.local import LocalWorker
from fcd.wire.admin import Progress, WorkerInfo


def worker_info(
    state: State,
    worker: Worker,
    *,
    now: float,
    record: Record | None,
    local: LocalWorker | None,
    spec: LaunchSpec | None,
) -> WorkerInfo:
    """`now` is the scheduler's clock."""
    models = list(spec.all_names) if spec is not None else list(worker.models)
    info = WorkerInfo(name=worker.name, models=models, state=worker.state, local=worker.local)
    info.restarts = worker.restarts
    if worker.turning:
        info.progress = Progress("going to sleep" if worker.turning == "sleep" else "waking up")
    cards = gpus(state.free)
    info.gpus = [cards.index(device) for device in worker.claims if device in cards]
    info.error = "" if worker.state == "ready" and worker.healthy else worker.error
    busy = len(worker.leases) + worker.elsewhere
    queued = sum(len(state.models[name].waiting) for name in worker.models if name in state.models)
    info.running, info.waiting = busy, queued
    if worker.ready_at:
        info.last_used = time.time() if busy else time.time() - max(0.0, now - worker.idle_since)
    if spec is not None:
        info.engine = spec.options.engine or "transformers"
        info.device, info.dtype = spec.options.device, spec.options.dtype
        info.quantization = spec.options.quantization
        info.context_length = spec.context_length
        info.memory_bytes = spec.estimate
        info.notes = config_notes(spec)
    if local is not None:
        _from_process(info, local)
    if record is not None:
        _from_registration(info, record, busy, queued)
    return info


def _from_process(info: WorkerInfo, local: LocalWorker) -> None:
    info.pid = local.pid
    info.progress = local.progress if info.state in ("starting", "loading") else info.progress
    info.started_at = local.started_at
    info.log = str(local.log_path) if local.log_path is not None else ""


def _from_registration(info: WorkerInfo, record: Record, busy: int, queued: int) -> None:
    said, gauges = record.fcd, record.gauges
    info.address = record.url
    info.models = info.models if record.local else list(record.status.model_names)
    info.engine = said.engine if record.target.dialect == "openai" else "fastchat"
    info.device = said.device if record.target.dialect == "openai" else ""
    info.dtype, info.quantization = said.dtype, said.quantization
    info.context_length = said.context_length or info.context_length
    info.memory_bytes = gauges.memory_bytes or said.memory_bytes or info.memory_bytes
    info.tokens_per_second, info.ttft_ms = gauges.tokens_per_second, gauges.ttft_ms
    info.kv_used = gauges.kv_used
    info.prompt_tokens, info.generated_tokens = gauges.prompt_tokens, gauges.generated_tokens
    info.capabilities = list(said.capabilities)
    info.adapters = list(said.adapters)
    info.notes += said.notes
    if said.parallel and busy > said.parallel:
        info.running, info.waiting = said.parallel, queued + busy - said.parallel
    if not record.local:
        info.started_at = record.registered_at
