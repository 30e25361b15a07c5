"""The flags that say which model and how to load it: the same for `chat`, `run`, `load` and `worker run`."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from fcd.builtin import is_builtin
from fcd.cli.command import Parser
from fcd.errors import UsageError

if TYPE_CHECKING:
    from fcd.wire.admin import ModelOptions

_NEXT_ADAPTER = re.compile(r",(?=[^,=/]+=)")


def add_model_name(parser: Parser) -> None:
    """`-m NAME` and FastChat's `--model-path`."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("-m", "--model", metavar="NAME", help="the model: a name that `fcd ls` lists, or a repo")
    which.add_argument("--model-path", metavar="PATH_OR_REPO", help="a folder in Hugging Face's layout, or a repo")


def add_model_flags(parser: Parser) -> None:
    """How to load it. Each is left to the model and the machine when it is not given."""
    group = parser.add_argument_group("loading the model")
    bits = group.add_mutually_exclusive_group()
    bits.add_argument(
        "--load-8bit", dest="quantization", action="store_const", const="8bit", default="", help="weights in 8 bits"
    )
    bits.add_argument("--load-4bit", dest="quantization", action="store_const", const="4bit", help="weights in 4 bits")
    group.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="", help="where it runs")
    group.add_argument(
        "--dtype", choices=("auto", "float32", "float16", "bfloat16"), default="", help="type of the weights"
    )
    group.add_argument(
        "--num-gpus",
        "--tensor-parallel-size",
        type=positive,
        default=0,
        metavar="N",
        help="spread it over so many GPUs",
    )
    group.add_argument("--gpus", default="", metavar="0,1", help="use these GPUs only")
    group.add_argument("--max-gpu-memory", default="", metavar="8GiB", help="use at most this much of each GPU")
    group.add_argument("--engine", choices=("transformers", "vllm", "command"), default="", help="what runs it")
    group.add_argument("--revision", default="", metavar="REV", help="a branch, tag or commit of the repo")
    group.add_argument(
        "--conv-template", default="", metavar="NAME", help="a named template, for models that bring none"
    )
    group.add_argument(
        "--lora-modules",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="a LoRA adapter over the model, which requests call NAME: its folder; may be repeated",
    )
    group.add_argument("--keep-alive", default="", metavar="5m", help="how long it stays loaded unused; -1 is for ever")
    own = parser.add_argument_group("for --engine vllm", "What follows `--` goes to `vllm serve` as it is.")
    own.add_argument("--tokenizer", default="", metavar="PATH_OR_REPO", help="the tokenizer, where the model has none")
    own.add_argument(
        "--quantization", dest="quantize_with", default="", metavar="METHOD", help="its own name of one: awq, fp8 ..."
    )
    own.add_argument(
        "--gpu-memory-utilization",
        type=_share,
        default=0,
        metavar="0.9",
        help="the share of each GPU's whole memory that it takes",
    )
    own.add_argument(
        "--max-model-len", type=positive, default=0, metavar="N", help="the longest context to make room for"
    )
    own.add_argument(
        "--trust-remote-code", action="store_true", help="run the Python that the model's repo brings (default: never)"
    )


def model_options(args: argparse.Namespace, *, keep_alive: str = "--keep-alive") -> ModelOptions:
    """The flags of `add_model_flags` as the daemon takes them. `keep_alive`: the flag that said it.

    Raises:
        UsageError: `--keep-alive`, `--gpus` or `--max-gpu-memory` cannot be understood, or there is no such template.
    """
    from fcd.errors import ConfigError
    from fcd.settings import parse_duration, parse_size
    from fcd.templates import get_template
    from fcd.wire.admin import ModelOptions

    if args.keep_alive:
        try:
            parse_duration(args.keep_alive)
        except ConfigError as error:
            raise UsageError(f"{keep_alive}: {error.message}") from error
    if args.max_gpu_memory:
        try:
            parse_size(args.max_gpu_memory)
        except ConfigError as error:
            raise UsageError(f"--max-gpu-memory: {error.message}") from error
    if args.conv_template:
        get_template(args.conv_template)
    if args.gpus and not all(part.strip().isdecimal() for part in args.gpus.split(",")):
        raise UsageError(f"--gpus {args.gpus}: write the GPUs' numbers with commas between, such as 0,1.")
    return ModelOptions(
        engine=args.engine,
        device=args.device,
        dtype=args.dtype,
        quantization=args.quantization,
        num_gpus=args.num_gpus,
        gpus=args.gpus,
        max_gpu_memory=args.max_gpu_memory,
        revision=args.revision,
        conv_template=args.conv_template,
        keep_alive=args.keep_alive,
        lora_modules=lora_modules(args.lora_modules),
        tokenizer=_tokenizer(args.tokenizer),
        quantize_with=args.quantize_with,
        gpu_memory_utilization=args.gpu_memory_utilization,
        max_model_len=args.max_model_len,
        trust_remote_code=args.trust_remote_code,
        engine_args=list(getattr(args, "passthrough", [])),
    )


def _tokenizer(name: str) -> str:
    """A folder as an absolute path, since the daemon has another current folder; a repo as it is."""
    folder = Path(name).expanduser()
    return str(folder.absolute()) if name and folder.exists() else name


def lora_modules(words: list[str]) -> dict[str, str]:
    """`--lora-modules` as names to folders. Several may stand in one word, with commas between: a comma that is not
    followed by another NAME= belongs to the path.

    Raises:
        UsageError: a word is no NAME=PATH, or a name stands twice.
    """
    modules: dict[str, str] = {}
    for word in words:
        for part in _NEXT_ADAPTER.split(word):
            name, equals, path = (piece.strip() for piece in part.partition("="))
            if not (name and equals and path):
                raise UsageError(f"--lora-modules {part}: write NAME=PATH, such as pirate=./pirate-lora.")
            if name in modules:
                raise UsageError(f"--lora-modules: the name '{name}' stands twice.")
            modules[name] = str(Path(path).expanduser().absolute())
    return modules


def chosen_model(args: argparse.Namespace) -> str:
    """What `add_model_name`'s flags name. `--model-path` is a folder wherever there is something of that name."""
    path: str = args.model_path or ""
    if path and not is_builtin(path) and Path(path).expanduser().exists():
        return str(Path(path).expanduser().absolute())
    return path or args.model or ""


def for_daemon(name: str) -> str:
    """A folder's name as an absolute path, since the daemon has another current folder; any other name as it is."""
    plain, at, suffix = name.rpartition("@")
    if at and suffix in ("8bit", "4bit") and not Path(name).expanduser().exists():
        return f"{for_daemon(plain)}@{suffix}"
    if is_builtin(name):
        return name
    is_path = name.startswith(("/", "./", "../", "~")) or name in (".", "..")
    folder = Path(name).expanduser()
    if is_path or (folder / "config.json").is_file() or (folder.suffix.lower() == ".gguf" and folder.is_file()):
        return str(folder.absolute())
    return name


def positive(text: str) -> int:
    """An argparse type: a whole number above 0."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return value


def _share(text: str) -> float:
    """An argparse type: a share, above 0 and at most 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a share above 0 and at most 1, such as 0.9")
    return value
