"""A Ray cluster of several nodes on this machine, in a process of its own: what it is told on stdin, it does.

Run as `python -m tests.e2e.ray_nodes`; each line is JSON, and so is each answer. It ends with its stdin.
"""

from __future__ import annotations

import json
import sys
from typing import Any

_STORE_BYTES = 80 * 2**20


class Nodes:
    def __init__(self, client_port: int) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "num_gpus": 0, "node_ip_address": "127.0.0.1", "include_dashboard": False}
        if client_port:
            head["ray_client_server_port"] = client_port
        self.cluster = Cluster(
            initialize_head=True, connect=False, head_node_args={**head, "object_store_memory": _STORE_BYTES}
        )
        self.nodes: dict[str, Any] = {}

    def add(self, name: str, **resources: Any) -> int:
        """The id of its own process."""
        self.nodes[name] = self.cluster.add_node(object_store_memory=_STORE_BYTES, wait=False, **resources)
        return int(self.nodes[name].all_processes["raylet"][0].process.pid)

    def lose(self, name: str) -> None:
        """The node's processes are killed: nobody says goodbye."""
        self.cluster.remove_node(self.nodes.pop(name), allow_graceful=False)

    def reserved(self) -> list[str]:
        """The names of all reservations, and of all actors of fcd."""
        import ray
        from ray.util import list_named_actors, placement_group_table

        if not ray.is_initialized():
            ray.init(self.cluster.address, namespace="fcd", log_to_driver=False, logging_level="ERROR")
        groups = [each["name"] for each in placement_group_table().values() if each["state"] != "REMOVED"]
        return sorted({*groups, *list_named_actors()})


def main() -> None:
    import os

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    nodes = Nodes(int(sys.argv[1]))
    print(json.dumps(nodes.cluster.address), file=answers, flush=True)
    try:
        for line in sys.stdin:
            method, values = json.loads(line)
            print(json.dumps(getattr(nodes, method)(**values)), file=answers, flush=True)
    finally:
        nodes.cluster.shutdown()


if __name__ == "__main__":
    main()
