"""`fcd ping MODEL`: one short answer through the daemon, as FastChat's test_message gives; exit code 1 without one."""

from __future__ import annotations

import argparse
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from fcd.cli.access import running_client
from fcd.cli.command import Parser, add_json, run_async
from fcd.cli.model_flags import positive
from fcd.cli.numbers import temperature, within
from fcd.cli.output import print_json, printable
from fcd.errors import EXIT_OK, FcdError

if TYPE_CHECKING:
    from fcd.client import Client


def add_arguments(parser: Parser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help="the model that is asked (default: chat.model)")
    parser.add_argument("--model-name", dest="old_model", metavar="MODEL", help=argparse.SUPPRESS)
    parser.add_argument(
        "--message", default="Tell me a story with more than 1000 words.", metavar="TEXT", help="what is asked"
    )
    parser.add_argument("--max-new-tokens", type=positive, default=32, metavar="N", help="tokens (default: 32)")
    parser.add_argument("--temperature", type=temperature, default=0.0, metavar="T", help="default: 0")
    parser.add_argument(
        "--timeout", type=within(0, above=True), default=120.0, metavar="S", help="seconds to wait (default: 120)"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from fcd.paths import resolve_paths
    from fcd.settings import load_settings

    model = args.model or args.old_model or load_settings(resolve_paths().config_file).chat.model
    body = {
        "model": model,
        "messages": [{"role": "user", "content": args.message}],
        "max_tokens": args.max_new_tokens,
        "temperature": args.temperature,
        "stream_options": {"include_usage": True},
    }
    return run_async(_ping(body, args.timeout, as_json=args.json))


async def _ping(body: dict[str, Any], timeout_s: float, *, as_json: bool) -> int:
    import asyncio

    async with running_client() as client:
        try:
            async with asyncio.timeout(timeout_s):
                answer = await _ask(client, body)
        except TimeoutError:
            raise FcdError(
                f"{body['model']} gave no answer within {timeout_s:.0f} s.", hint="`fcd ps` shows what it is doing."
            ) from None
        answer["worker"] = await _worker(client, body["model"])
    if not answer["text"].strip() and not answer["tokens"]:
        raise FcdError(f"{body['model']} answered with nothing.", hint="`fcd daemon logs` has the details.")
    if as_json:
        print_json(answer)
        return EXIT_OK
    print(printable(answer["text"]).strip())
    tokens = f"{answer['tokens']} tokens in " if answer["tokens"] else ""
    where = f"worker {answer['worker']}, " if answer["worker"] else ""
    print(f"{where}first token after {answer['ttft_ms']:.0f} ms, {tokens}{answer['seconds']:.2f} s")
    return EXIT_OK


async def _ask(client: Client, body: dict[str, Any]) -> dict[str, Any]:
    began = time.perf_counter()
    first = 0.0
    parts: list[str] = []
    tokens = 0
    async with aclosing(client.chat(body)) as chunks:
        async for chunk in chunks:
            tokens = int((chunk.get("usage") or {}).get("completion_tokens") or tokens)
            for choice in chunk.get("choices") or []:
                text = (choice.get("delta") or {}).get("content") or ""
                if text:
                    first = first or time.perf_counter()
                    parts.append(text)
    ended = time.perf_counter()
    return {
        "model": body["model"],
        "text": "".join(parts),
        "tokens": tokens,
        "ttft_ms": ((first or ended) - began) * 1000,
        "seconds": ended - began,
    }


async def _worker(client: Client, model: str) -> str:
    """Which worker serves the model, where just one does."""
    serving = [worker.name for worker in await client.workers() if model in worker.models and worker.state == "ready"]
    return ", ".join(serving)
