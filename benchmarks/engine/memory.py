"""Memory of a loaded model: its process's own (not mapped from files) and resident memory, after and while loading.

    python -m benchmarks.engine.memory FOLDER [--quantization 8bit] [--dtype float32]

Runs in a process of its own for each model, since a process does not give back all that it had. Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

MIB = 1 << 20


@dataclass(frozen=True)
class Memory:
    """MiB over what the process had before it loaded the model, libraries included."""

    dtype: str
    weights: float
    """As the engine itself counts them."""
    private: float
    private_peak: float
    resident_peak: float


def measure_in_child(folder: Path, *flags: str) -> Memory:
    command = [sys.executable, "-m", "benchmarks.engine.memory", str(folder), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return Memory(**json.loads(done.stdout.splitlines()[-1]))


def _status(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"this system does not say {key}")


class Watch:
    """The highest of two figures while the block runs, read every few milliseconds."""

    def __init__(self) -> None:
        self.private = self.resident = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.005):
            self.private = max(self.private, _status("RssAnon"))
            self.resident = max(self.resident, _status("VmRSS"))


def measure(folder: str, quantization: str, dtype: str) -> Memory:
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM  # noqa: F401

    from daemon.engines.base import LoadOptions
    from daemon.engines.transformers import build  # noqa: F401
    from daemon.engines.transformers.loader import load_model

    # What every model needs is there before the count begins: libraries, and the scratch memory of products.
    for kind in (torch.float32, torch.bfloat16):
        torch.ones(256, 256, dtype=kind) @ torch.ones(256, 256, dtype=kind)

    options = LoadOptions(path=folder, quantization=quantization, dtype=dtype)
    private, resident = _status("RssAnon"), _status("VmRSS")
    with Watch() as watch:
        loaded = load_model(options, lambda *progress: None)
    return Memory(
        dtype=loaded.info.dtype,
        weights=loaded.info.memory_bytes / MIB,
        private=_status("RssAnon") - private,
        private_peak=watch.private - private,
        resident_peak=watch.resident - resident,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--quantization", default="")
    parser.add_argument("--dtype", default="")
    args = parser.parse_args()
    print(json.dumps(asdict(measure(args.folder, args.quantization, args.dtype))))


if __name__ == "__main__":
    main()
