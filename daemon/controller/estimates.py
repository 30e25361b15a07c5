"""`POST /api/models/estimate`: what a model will take and where it would go, before anything is loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from daemon.controller.models import Models
from daemon.controller.sizes import RUNTIME_BYTES, TOKENS_COUNTED, dtype_of, size_of
from daemon.controller.vllm_sizes import share_of_words, vllm_sizes
from daemon.scheduler.memory import available
from daemon.scheduler.placement import CPU, gpus
from daemon.scheduler.room import Preview, preview
from daemon.supervisor.launch import LaunchSpec, Place, placed, share_of
from daemon.supervisor.memory import MachineMemory
from daemon.supervisor.supervisor import Supervisor
from fcd.catalog import Reference, read_facts
from fcd.wire.admin import DeviceShare, EstimateReply, LoadRequest


class Estimates:
    def __init__(self, catalog: Models, supervisor: Supervisor, machine: MachineMemory) -> None:
        self._catalog = catalog
        self._supervisor = supervisor
        self._machine = machine

    async def of(self, request: LoadRequest) -> EstimateReply:
        """Raises ApiError: the name means nothing."""
        reference, spec = await asyncio.to_thread(self._catalog.look_up, request.model, request.options)
        found = preview(self._supervisor.state, spec.needs)
        reply = await asyncio.to_thread(self._sizes, reference, spec, found)
        reply.loaded = self._is_loaded(spec)
        if reply.loaded:
            return reply
        reply.fits, reply.reason = found.claims is not None, f"It needs {found.reason}." if found.reason else ""
        reply.devices = self._shares(found)
        reply.unloads = list(found.leaving)
        reply.sleeps = list(found.sleeping)
        self._add_vllm(reply, reference, spec, found)
        return reply

    def _sizes(self, reference: Reference, spec: LaunchSpec, found: Preview) -> EstimateReply:
        on_gpu = found.claims is not None and CPU not in found.claims
        size = size_of(reference, spec.options, self._catalog.worker_settings, on_gpu=on_gpu)
        if size is None:
            return EstimateReply(spec.name, known=False)
        dtype = dtype_of(reference, spec.options, self._catalog.worker_settings, on_gpu=on_gpu)
        if not dtype and reference.path is not None:
            dtype = read_facts(reference.path).dtype
        tokens = min(size.context_length or TOKENS_COUNTED, TOKENS_COUNTED)
        return EstimateReply(
            spec.name,
            known=True,
            parameters=size.parameters,
            dtype=dtype,
            quantization=spec.options.quantization,
            weights_bytes=size.weights_bytes,
            kv_bytes_per_token=size.kv_bytes_per_token,
            context_length=size.context_length,
            needed_bytes=size.total_bytes(tokens) + RUNTIME_BYTES,
            full_context_bytes=size.total_bytes(size.context_length),
        )

    def _add_vllm(self, reply: EstimateReply, reference: Reference, spec: LaunchSpec, found: Preview) -> None:
        """What vLLM will be told."""
        if spec.options.engine != "vllm" or not found.claims or CPU in found.claims:
            return
        sizes = vllm_sizes(reference, spec.options)
        if sizes is not None:
            reply.needed_bytes = sizes.least
        told = placed(spec.options, self._place(found.claims))
        reply.gpus = len(found.claims)
        reply.gpu_memory_utilization = told.gpu_memory_utilization or share_of_words(spec.options.engine_args)

    def _place(self, claims: Mapping[str, int]) -> Place:
        return Place(tuple(claims), share=share_of(claims, self._machine.totals, available(self._supervisor.state)))

    def _shares(self, found: Preview) -> list[DeviceShare]:
        free = available(self._supervisor.state)
        return [
            DeviceShare(device, self._name(device), size, max(0, free.get(device, 0)))
            for device, size in (found.claims or {}).items()
        ]

    def _name(self, device: str) -> str:
        if device == CPU:
            return "RAM"
        number = gpus(self._supervisor.state.free).index(device)
        card = next((gpu.name for gpu in self._machine.gpus if gpu.uuid == device), "")
        return f"GPU {number}" + (f" ({card})" if card else "")

    def _is_loaded(self, spec: LaunchSpec) -> bool:
        """As it was asked for: under another engine it would be loaded anew."""
        model, known = self._supervisor.state.models.get(spec.name), self._supervisor.specs.get(spec.name)
        if known is not None and known.options.engine != spec.options.engine:
            return False
        return model is not None and any(self._supervisor.state.workers[name].serving for name in model.workers)
