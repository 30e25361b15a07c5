"""Three machines: a head, a daemon that joined it, and a worker. Cables are pulled and plugged in again."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.e2e.harness import wait_for
from tests.e2e.machines import Machine, machines, why_not

pytestmark = pytest.mark.slow


def serves(machine: Machine, model: str) -> bool:
    status, text = machine.chat(model)
    if status != 200:
        print(f"{machine.namespace} {model}: {status} {text[:300]}")
    return status == 200


def test_machines_join_lose_each_other_and_find_back(tmp_path: Path) -> None:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with machines(tmp_path, "head", "low", "far") as switch:
        head, low, far = switch.machines
        config = low.folder / "config" / "config.toml"
        config.parent.mkdir(parents=True)
        config.write_text('[models.low-model]\npath = "guide-mini"\n')
        head.environ |= {"FCD_DAEMON_STALL_S": "3", "FCD_DAEMON_FIRST_BYTE_S": "15"}
        head.start()
        low.start()
        token = tmp_path / "token"
        token.write_text(json.loads(head.fcd("token", "create", "test", "--json").stdout)["secret"])

        # A whole daemon joins; it is told when the other way is closed.
        low.fcd("daemon", "join", head.url, "--token-file", str(token))
        # A worker works out by itself where it listens, and asks its callers for a key.
        arguments = ("worker", "run", "guide", "--controller", head.url, "--token-file", str(token))
        worker = far.popen(
            *arguments, "--model-names", "far-model", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(lambda: serves(head, "far-model"), what="the worker serves")
        wait_for(lambda: serves(head, "low-model"), what="the joined daemon serves")
        addresses = {each["name"]: each["address"] for each in head.workers()}
        assert sorted(address.rpartition(":")[0] for address in addresses.values()) == [
            "http://10.77.0.2",
            "http://10.77.0.3",
        ]

        # The worker's cable is pulled in the middle of an answer: the answer ends with an error, the rest goes on.
        answer = head.popen_ask("far-model")
        switch.cable(far, "down")
        assert serves(head, "low-model")
        said, _ = answer.communicate(timeout=60)
        assert "event: error" in said or '"error"' in said, said[-500:]
        assert "[DONE]" not in said
        status, text = head.chat("far-model")
        assert status in (502, 503, 504), text
        assert serves(head, "low-model")
        assert worker.poll() is None
        switch.cable(far, "up")
        wait_for(lambda: serves(head, "far-model"), within=90, what="the worker is back by itself")

        # The joined daemon's cable is pulled: both go on with what they reach.
        switch.cable(low, "down")
        assert head.chat("low-model")[0] in (502, 503, 504)
        assert serves(head, "far-model")
        assert serves(low, "low-model")
        switch.cable(low, "up")
        wait_for(lambda: serves(head, "low-model"), within=90, what="the joined daemon is back by itself")

        # Without a way back, the error says which flag to set.
        refused = far.fcd(*arguments, "--host", "127.0.0.1", "--model-names", "other", check=False)
        assert refused.returncode == 1
        assert "--host" in refused.stderr
        refused = far.fcd(*arguments, "--worker-address", "http://10.77.0.3:9", "--model-names", "other", check=False)
        assert refused.returncode == 1
        assert "--worker-address" in refused.stderr
        head.fcd("daemon", "stop")
        low.fcd("daemon", "stop")
