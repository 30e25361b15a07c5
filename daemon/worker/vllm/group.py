"""One vLLM over several nodes: what its first node and the others are started with. Pure but for `interfaces`.

vLLM 0.25 spreads a model with its own multiprocessing executor (`vllm/v1/executor/multiproc_executor.py`): every node
runs the same `vllm serve`, the first with its server, the others with `--headless`. Their processes meet at the first
node's `--master-addr` and `--master-port` (torch.distributed), and pass steps and answers over further ports, chosen by
the system, on each node's VLLM_HOST_IP. Each node must see exactly its share of the GPUs. None of them notices that
another has died: whoever starts them must end them together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

PART_VARIABLE: Final = "FCD_VLLM_PART"
"""The environment variable by which a worker program is told that it is one of several."""
_PARALLEL: Final = ("--tensor-parallel-size", "--pipeline-parallel-size", "-tp", "-pp")


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """One node's place in a vLLM that runs on several."""

    nodes: int
    rank: int = 0
    host: str = ""
    """This node's address."""
    master: str = ""
    """The first node's address."""
    port: int = 0
    """Where they meet on it; the first node chooses another at each start."""
    words: tuple[str, ...] = ()
    """What the first node's vLLM was started with, its model and its socket left out: for the others."""


class Follow(msgspec.Struct, frozen=True):
    """One start of the first node's vLLM, for those that are to follow: a JSON line on their stdin."""

    port: int
    words: tuple[str, ...]
    version: str = ""
    """Of the first node's vLLM; empty: not known."""


def read_part(environ: Mapping[str, str]) -> Part | None:
    """None: it is the only one.

    Raises:
        msgspec.MsgspecError: what stands there is none.
    """
    text = environ.get(PART_VARIABLE, "")
    return msgspec.json.decode(text, type=Part) if text else None


def part_flags(part: Part) -> list[str]:
    """Where this node stands among the others."""
    flags = ["--nnodes", str(part.nodes), "--node-rank", str(part.rank)]
    flags += ["--master-addr", part.master, "--master-port", str(part.port)]
    # Ray may be in vLLM's environment: it is not to be used, whatever vLLM would find by itself.
    return [*flags, "--distributed-executor-backend", "mp"]


def follower_argv(command: Sequence[str], folder: str, part: Part) -> list[str]:
    """Of a node that has no server: the first node's words on this node's folder."""
    return [*command, "serve", folder, "--headless", *part_flags(part), *part.words]


def part_environment(part: Part, given: Mapping[str, str], interfaces: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """What vLLM, NCCL and Gloo must know of the network, where the environment does not say it already.

    Args:
        interfaces: the addresses of each of this machine's network interfaces.
    """
    wanted = {"VLLM_HOST_IP": part.host}
    name = next((name for name, addresses in interfaces.items() if part.host in addresses), "")
    if name:
        # Left alone, Gloo takes the interface of the host's name, often loopback, and NCCL the first that is not.
        wanted |= {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": f"={name}"}
    return {variable: value for variable, value in wanted.items() if variable not in given}


def parallel_flags(gpus: int, nodes: int, passed_on: Sequence[str]) -> list[str]:
    """The model's layers over the nodes, each layer over a node's GPUs: least goes from node to node that way."""
    given = {word.partition("=")[0].replace("_", "-") for word in passed_on}
    if nodes > 1 and given & set(_PARALLEL):
        return []
    each = gpus // nodes
    flags = ["--tensor-parallel-size", str(each)] if each > 1 else []
    return [*flags, *(["--pipeline-parallel-size", str(nodes)] if nodes > 1 else [])]


def interfaces() -> dict[str, list[str]]:
    """The addresses of this machine's network interfaces."""
    import psutil

    return {name: [each.address.partition("%")[0] for each in found] for name, found in psutil.net_if_addrs().items()}
