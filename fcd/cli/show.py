"""`fcd show MODEL`: what a model is, by its own files and by what runs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from fcd.cli.access import ask_workers
from fcd.cli.command import Parser, add_json, run_async
from fcd.cli.model_flags import for_daemon
from fcd.cli.output import print_json, size
from fcd.errors import EXIT_OK, ApiError

if TYPE_CHECKING:
    from fcd.catalog import Reference
    from fcd.wire.admin import WorkerInfo


_TEMPLATE = {"True": "its own", "False": "none: --conv-template NAME gives it one"}


def add_arguments(parser: Parser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a name that `fcd ls` lists, a folder, or a repo")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from fcd.catalog import resolve
    from fcd.paths import resolve_paths
    from fcd.settings import load_settings

    workers = run_async_value(args.model)
    try:
        reference = resolve(for_daemon(args.model), load_settings(resolve_paths().config_file))
        facts = _facts(reference)
    except ApiError:
        if not workers:
            raise
        facts = {"name": args.model, "source": "worker"}
    facts["workers"] = workers
    if args.json:
        print_json(facts)
    else:
        _print(facts)
    return EXIT_OK


def run_async_value(model: str) -> list[WorkerInfo]:
    """The workers that serve a model; none when no daemon runs."""
    found: list[WorkerInfo] = []

    async def ask() -> int:
        found.extend(worker for worker in await ask_workers() if model in worker.models)
        return EXIT_OK

    run_async(ask())
    return found


def _facts(reference: Reference) -> dict[str, Any]:
    from fcd.catalog import estimate, read_facts

    facts: dict[str, Any] = {"name": reference.name, "source": reference.kind}
    if reference.path is None or not reference.path.is_dir():
        facts["repo"] = reference.repo
        facts["downloaded"] = False
        return facts
    said, need = read_facts(reference.path), estimate(reference.path, reference.quantization)
    facts |= {
        "path": str(reference.path),
        "repo": reference.repo,
        "architecture": said.architecture,
        "parameters": need.parameters,
        "context_length": said.context_length,
        "layers": said.layers,
        "hidden_size": said.hidden_size,
        "vocab_size": said.vocab_size,
        "dtype": said.dtype,
        "quantization": reference.quantization or said.quantization,
        "chat_template": said.has_chat_template,
        "weights_bytes": need.weights_bytes,
        "kv_bytes_per_token": need.kv_bytes_per_token,
    }
    return facts


def _print(facts: dict[str, Any]) -> None:
    shown = {
        "name": facts["name"],
        "source": facts["source"],
        "path": facts.get("path"),
        "architecture": facts.get("architecture"),
        "parameters": f"{facts['parameters'] / 1e6:.1f} M" if facts.get("parameters") else "",
        "context": f"{facts['context_length']} tokens" if facts.get("context_length") else "",
        "layers": facts.get("layers"),
        "vocabulary": facts.get("vocab_size"),
        "dtype": facts.get("dtype"),
        "quantization": facts.get("quantization"),
        "template": _TEMPLATE.get(str(facts.get("chat_template")), ""),
        "weights": size(facts.get("weights_bytes") or 0),
        "KV cache": f"{size(facts['kv_bytes_per_token'])} for each token" if facts.get("kv_bytes_per_token") else "",
    }
    for label, value in shown.items():
        if value:
            print(f"{label:<13} {value}")
    if facts.get("downloaded") is False:
        print(f"Not on this machine: `fcd pull {facts['repo']}` downloads it.")
    for worker in facts["workers"]:
        print(f"{'worker':<13} {worker.name}: {worker.state} on {worker.device or 'its device'}")
        if worker.capabilities:
            print(f"{'':<13} it can: {', '.join(worker.capabilities)}")
