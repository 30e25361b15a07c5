"""Output tokens per second and time to first token of fcd and its peers, in one run.

    python -m benchmarks.engine [--models 120m,600m] [--rounds 5] [--second-turn] [--memory] \\
        [--fastchat-python PYTHON] [--transformers-python PYTHON] [--llama-server BINARY] [--llama-batched-bench BINARY]

A peer whose program is not given is left out. All are started first and then take turns, round by round, the others
idle, because a shared machine is half as fast in one minute as in the next; the figures are medians over the rounds,
the ratios medians of each round's, fcd's over the peer's. "of the limit" is how near a row is to what the machine's
memory and arithmetic allow, both measured in the same run. `--second-turn` and `--memory` measure these alone, fcd
alone.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path

from benchmarks.engine import limits, peers
from benchmarks.engine.load import Result, run_round
from benchmarks.engine.memory import measure_in_child
from benchmarks.engine.models import make_model, make_prompts
from benchmarks.engine.second_turn import report, run_turns

Server = Callable[[], AbstractContextManager[tuple[str, str]]]
_TEMPLATE_TOKENS = 64
"""What a chat's template may add to its prompt."""


def servers(args: argparse.Namespace, folder: Path) -> dict[str, Server]:
    found: dict[str, Server] = {
        "fcd": partial(peers.fcd, folder),
        "fcd bf16": partial(peers.fcd, folder, "--dtype", "bfloat16"),
    }
    if not args.no_int8:
        found["fcd 8bit"] = partial(peers.fcd, folder, "--load-8bit")
    if args.fastchat_python:
        found["FastChat"] = partial(peers.fastchat, folder, args.fastchat_python)
    if args.transformers_python:
        serve = partial(peers.transformers_serve, folder, args.transformers_python)
        found["transformers serve"] = partial(serve, continuous=False)
        found["transformers serve with batching"] = partial(serve, continuous=True)
    if args.llama_server:
        from benchmarks.engine.gguf_export import export

        context = args.prompt_tokens + args.tokens + _TEMPLATE_TOKENS
        for precision in ("bf16", "q8_0"):
            start = partial(peers.llama_server, binary=args.llama_server, threads=args.threads, context=context)
            found[f"llama-server {precision}"] = partial(start, export(folder, precision), most=max(args.streams))
    return found


Turn = Callable[[int, Sequence[str], int], Result]
"""One round: how many at once, their prompts, and how many tokens each is to be answered with."""


def llama_turn(precision: str, folder: Path, args: argparse.Namespace) -> Turn:
    from benchmarks.engine.gguf_export import export

    gguf = export(folder, precision)

    def turn(count: int, _: Sequence[str], tokens: int) -> Result:
        binary = args.llama_batched_bench
        return peers.llama_batched_bench(gguf, binary, args.threads, [count], args.prompt_tokens, tokens)[count]

    return turn


def _ask(url: str, model: str, count: int, prompts: Sequence[str], tokens: int) -> Result:
    assert len(prompts) == count
    return run_round(url, model, prompts, tokens)


def measure(started: dict[str, Server], folder: Path, args: argparse.Namespace) -> dict[str, dict[int, list[Result]]]:
    """Every server's results for each number of streams, round by round."""
    results: dict[str, dict[int, list[Result]]] = {}
    with ExitStack() as stack:
        turns: dict[str, Turn] = {}
        for name, start in started.items():
            url, model = stack.enter_context(start())
            turns[name] = partial(_ask, url, model)
        if args.llama_batched_bench:
            for precision in ("bf16", "q8_0"):
                turns[f"llama.cpp {precision}, no server"] = llama_turn(precision, folder, args)
        for count in args.streams:
            prompts = make_prompts(folder, count * (args.rounds + 1), args.prompt_tokens)
            for number in range(args.rounds + 1):
                for name, turn in turns.items():
                    # The first round warms up.
                    own = prompts[number * count :][:count]
                    result = turn(count, own, args.tokens if number else 8)
                    if number:
                        results.setdefault(name, {}).setdefault(count, []).append(result)
                        print(f"  {name}: {count} at once: {result.tokens_per_second:.1f} tok/s", flush=True)
    return results


WEIGHT_BYTES = {"bit": 1.0, "q8_0": 34 / 32, "fp32": 4.0}
"""Bytes for each weight by what a row's name says; any other row keeps 16 bits."""


def limit_lines(results: dict[str, dict[int, list[Result]]], folder: Path, args: argparse.Namespace) -> list[str]:
    """How near each row is to the machine's limit."""
    machine = limits.measure_machine(args.threads)
    parameters = limits.matrix_parameters(folder)
    lines = [
        f"\n{folder.name}: part of the limit ({machine.bandwidth / 1e9:.1f} GB/s read, "
        f"{machine.flops / 1e9:.0f} GFLOP/s in fp32, {parameters / 1e6:.0f} M weights in matrices)",
        "| server | " + " | ".join(map(str, args.streams)) + " |",
        "|---|" + "---|" * len(args.streams),
    ]
    for name, row in results.items():
        size = next((b for part, b in WEIGHT_BYTES.items() if part in name), 2.0)
        cells = []
        for count in args.streams:
            limit = limits.limit_of(parameters, size, count, machine).overall(args.prompt_tokens, args.tokens, count)
            rates = [result.tokens_per_second for result in row[count]]
            cells.append(f"{limits.share(rates, limit)} of {limit:.0f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def measure_second_turn(folder: Path, args: argparse.Namespace) -> None:
    prompts = make_prompts(folder, args.rounds, args.turn_tokens)
    with peers.fcd(folder) as (url, model):
        print(report(folder.name, args.turn_tokens, run_turns(url, model, prompts)), flush=True)


def measure_memory(folder: Path) -> None:
    """A table of fcd's number formats; what the speed of each is, the main table says."""
    print(f"\n{folder.name}: memory in MiB over what the process had before\n")
    print("| | weights | own memory after load | own, peak | resident, peak (mapped files included) |")
    print("|---|---|---|---|---|")
    formats: dict[str, list[str]] = {
        "fcd": [],
        "fcd bf16": ["--dtype", "bfloat16"],
        "fcd 8bit": ["--quantization", "8bit"],
    }
    for name, flags in formats.items():
        m = measure_in_child(folder, *flags)
        cells = (m.weights, m.private, m.private_peak, m.resident_peak)
        print(f"| {name} ({m.dtype}) | " + " | ".join(f"{cell:.0f}" for cell in cells) + " |", flush=True)


def table(size: str, results: dict[str, dict[int, list[Result]]], streams: list[int]) -> str:
    lines = [
        f"\n{size}: output tokens/s (time to first token, s)",
        "| server | " + " | ".join(map(str, streams)) + " |",
    ]
    lines.append("|---|" + "---|" * len(streams))
    for name, row in results.items():
        cells = []
        for count in streams:
            rate = statistics.median(result.tokens_per_second for result in row[count])
            ttft = statistics.median(result.ttft_s for result in row[count])
            cells.append(f"{rate:.1f} ({ttft:.2f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for ours in (name for name in results if name.startswith("fcd")):
        others = [name for name in results if not name.startswith("fcd")]
        # 8-bit against 16-bit is a ratio of two of our own rows.
        for name in others + (["fcd bf16", "fcd"] if ours == "fcd 8bit" else []):
            if name not in results:
                continue
            ratios = [
                statistics.median(
                    our.tokens_per_second / their.tokens_per_second
                    for our, their in zip(results[ours][count], results[name][count], strict=True)
                )
                for count in streams
            ]
            lines.append(f"| {ours} / {name} | " + " | ".join(f"{ratio:.2f}x" for ratio in ratios) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="120m,600m", type=lambda text: text.split(","))
    parser.add_argument("--streams", default="1,8,32", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", default="", help="measure only these: names in the table, with commas between")
    parser.add_argument("--no-int8", action="store_true")
    parser.add_argument("--second-turn", action="store_true", help="the second turn of a long chat, and nothing else")
    parser.add_argument("--turn-tokens", type=int, default=1500, help="length of that chat's first message")
    parser.add_argument("--memory", action="store_true", help="memory after and while loading, and nothing else")
    parser.add_argument("--folder", type=Path, help="where the models are kept between runs")
    parser.add_argument("--fastchat-python", default="")
    parser.add_argument("--transformers-python", default="")
    parser.add_argument("--llama-server", default="", help="llama.cpp's HTTP server")
    parser.add_argument("--llama-batched-bench", default="", help="llama.cpp's benchmark without a server")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for size in args.models:
            folder = make_model(args.folder or Path(temporary), size)
            if args.second_turn or args.memory:
                if args.second_turn:
                    measure_second_turn(folder, args)
                if args.memory:
                    measure_memory(folder)
                continue
            chosen = {
                name: start
                for name, start in servers(args, folder).items()
                if not args.only or name in args.only.split(",")
            }
            results = measure(chosen, folder, args)
            print(table(size, results, args.streams), flush=True)
            print("\n".join(limit_lines(results, folder, args)), flush=True)


if __name__ == "__main__":
    main()
