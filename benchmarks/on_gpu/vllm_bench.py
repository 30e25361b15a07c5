"""vLLM's own load generator, `vllm bench serve`, straight to a server's socket and through the daemon, in turns.

Run by the interpreter that has vLLM: one process for all rounds, since importing vLLM takes half a minute.

    python3 benchmarks/on_gpu/vllm_bench.py MODEL TOKENIZER SOCKET PORT [--rounds N] [--loads AT_ONCE:REQUESTS,...]

The last line is JSON: for each load and way, lists of output tokens/s, median TTFT and p99 gap in ms, and of failures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

WANTED = {"tokens_per_s": "output_throughput", "ttft_ms": "median_ttft_ms", "p99_gap_ms": "p99_itl_ms"}


def one(parse: Callable[[list[str]], Any], words: list[str], socket: str) -> dict[str, Any]:
    """One run. A socket is reached by giving aiohttp its connector for them in the place of the one for TCP."""
    import aiohttp
    from vllm.benchmarks import serve

    tcp = aiohttp.TCPConnector

    def unix(**options: Any) -> aiohttp.UnixConnector:
        return aiohttp.UnixConnector(path=socket, limit=options.get("limit", 0))

    if socket:
        aiohttp.TCPConnector = unix
    try:
        result: dict[str, Any] = serve.main(parse(words))
    finally:
        aiohttp.TCPConnector = tcp
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="its name on both servers")
    parser.add_argument("tokenizer", help="its folder")
    parser.add_argument("socket", help="of the vLLM server")
    parser.add_argument("port", type=int, help="of the daemon")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loads", default="1:8,32:256,256:1024")
    args = parser.parse_args()
    from vllm.benchmarks import serve
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    theirs = FlexibleArgumentParser()
    serve.add_cli_args(theirs)
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    seed = 0
    for load in args.loads.split(","):
        at_once, requests = load.split(":")
        ways: dict[str, dict[str, list[float]]] = {"direct": {}, "daemon": {}}
        found[at_once] = ways
        for _ in range(args.rounds):
            for way, rows in ways.items():
                seed += 1
                words = ["--dataset-name", "random", "--random-input-len", "128", "--random-output-len", "128"]
                words += ["--num-prompts", requests, "--max-concurrency", at_once, "--seed", str(seed), "--ignore-eos"]
                words += ["--model", args.model, "--tokenizer", args.tokenizer, "--disable-tqdm"]
                words += ["--base-url", f"http://127.0.0.1:{args.port}", "--ready-check-timeout-sec", "0"]
                result = one(theirs.parse_args, words, args.socket if way == "direct" else "")
                for name, key in WANTED.items():
                    rows.setdefault(name, []).append(round(float(result[key]), 2))
                rows.setdefault("failed", []).append(int(requests) - int(result["completed"]))
                last = {name: row[-1] for name, row in rows.items()}
                print(f"vllm bench serve, {at_once} at once, {way}: {last}", flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
