"""What a person asked a cluster for, checked: pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from daemon.cluster.entry import head_of
from daemon.cluster.messages import AgentError, Node
from daemon.cluster.reasons import gpus_by_memory
from daemon.controller.vllm_sizes import parallel_of
from daemon.store.placements import Need
from daemon.supervisor.launch import LaunchSpec, model_flags
from fcd.errors import ApiError, ConfigError, invalid
from fcd.settings import parse_size
from fcd.wire.admin import PlaceRequest

MOST_CPUS = 1024


def cluster_of(on: str) -> str:
    """`ray`, or `ray://HOST:PORT` in full.

    Raises:
        ApiError: 400, it is neither.
    """
    if on == "ray":
        return on
    if not on.startswith("ray://"):
        raise invalid("on", f"'{on[:80]}' is not a place for workers: it is ray, or ray://HEAD[:PORT].")
    try:
        return head_of(on, {})
    except AgentError as error:
        raise invalid("on", error.message) from None


def need_of(asked: PlaceRequest, spec: LaunchSpec) -> Need:
    """What one worker reserves: as asked; RAM as the model's files say, where they are here and it goes there.

    Raises:
        ApiError: 400 for what no reservation can be.
    """
    if not 1 <= asked.cpus <= MOST_CPUS:
        raise invalid("cpus", f"'cpus' must be between 1 and {MOST_CPUS}.")
    options = spec.options
    vram = _size(asked.vram, "vram")
    device = options.device.partition(":")[0]
    on_gpu = device in ("cuda", "gpu") or vram > 0 or (options.engine == "vllm" and device != "cpu")
    gpus = options.num_gpus or parallel_of(options.engine_args) or (1 if on_gpu else 0)
    memory = _size(asked.memory, "memory")
    if not memory and not gpus:
        memory = spec.needs.cpu
    return Need(cpus=asked.cpus, gpus=gpus, memory=memory, vram_mib=-(-vram // 2**20))


def spread(need: Need, spec: LaunchSpec, nodes: Sequence[Node], before: Need | None = None) -> Need:
    """For vLLM, of which nobody said how many GPUs: as many as hold it, by what is asked or its files say.

    Args:
        before: what the same model reserves there already; the nodes that were there then may have changed.
    """
    options = spec.options
    if not can_spread(spec) or options.num_gpus or parallel_of(options.engine_args):
        return need
    if before is not None:
        return msgspec.structs.replace(need, gpus=before.gpus)
    wanted = need.vram_mib or -(-spec.needs.gpu // 2**20)
    return msgspec.structs.replace(need, gpus=gpus_by_memory(wanted, nodes)) if wanted else need


def can_spread(spec: LaunchSpec) -> bool:
    """Whether it can run over several nodes."""
    return spec.options.engine == "vllm" and spec.options.device.partition(":")[0] != "cpu"


def arguments_of(spec: LaunchSpec, need: Need) -> tuple[str, ...]:
    """Of `fcd worker run` on the node.

    Raises:
        ApiError: 400 for what only this machine could carry out.
    """
    options = spec.options
    if options.engine == "command":
        raise invalid(
            "engine",
            "A command line of this machine's config.toml is not known on the cluster's nodes. Run it there: "
            "`fcd worker run MODEL --command ...`.",
        )
    if options.gpus:
        raise invalid("gpus", "The cluster chooses which GPUs it gives: ask for a number of them, --num-gpus N.")
    if options.keep_alive:
        raise invalid("keep_alive", "A worker on a cluster runs until it is stopped: leave --keep-alive out.")
    # It sees the GPUs that it is given, and no others, counted from 0.
    device = options.device.partition(":")[0] or ("" if need.gpus else "cpu")
    number = need.gpus if need.gpus > 1 and not parallel_of(options.engine_args) else 0
    shown = msgspec.structs.replace(options, device=device, num_gpus=number)
    return (spec.target, "--model-names", ",".join(spec.all_names), *model_flags(shown))


def _size(text: str, param: str) -> int:
    if not text:
        return 0
    try:
        size = parse_size(text)
    except ConfigError as error:
        raise invalid(param, error.message) from None
    if size <= 0:
        raise ApiError(400, f"'{param}' must be more than nothing.", param=param)
    return size
