"""Stands in for vLLM where there is no GPU: takes `serve MODEL --flags` as its command line does, prints the lines that
vLLM 0.25 prints while it starts, forks an engine process, and answers its routes with made-up tokens.

Over several nodes, rank 0 answers only when all others have met it at its master address, and none of them notices when
another is gone: the rest hang, as vLLM's multiprocessing executor does.

It runs no model. The environment tells it to go wrong (see `FAILS`), as vLLM was seen to.

    STAND_IN_FAILS    which way to fail; STAND_IN_STATE: a folder that remembers what happens once only
    STAND_IN_PIDS     a file to which each process adds its id
    STAND_IN_STEP_S   seconds between the lines of a start; STAND_IN_TOKEN_S: seconds between tokens
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

FAILS = (
    *("oom_once", "kv_once", "busy_gpu_once", "port_once", "tokenizer", "architecture", "gated", "driver", "library"),
    *("no_memory", "hang_start", "hang", "silent", "die_mid_stream", "remote_code"),
)
ENGINE = "import time\nwhile True: time.sleep(60)"
SAMPLING = (
    *("model", "stream", "stream_options", "max_tokens", "temperature", "top_p", "top_k", "stop", "seed", "n"),
    *("ignore_eos", "logprobs", "echo", "user", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"),
)
ROUTES = {
    "/v1/chat/completions": (*SAMPLING, "messages", "max_completion_tokens", "tools", "tool_choice", "response_format"),
    "/v1/completions": (*SAMPLING, "prompt", "suffix"),
    "/tokenize": ("model", "prompt", "messages", "add_special_tokens"),
    "/detokenize": ("model", "tokens"),
}


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="vllm", allow_abbrev=False)
    parser.add_argument("command", choices=("serve",))
    parser.add_argument("model")
    for flag in ("--uds", "--tokenizer", "--dtype", "--quantization", "--tool-call-parser", "--reasoning-parser"):
        parser.add_argument(flag, default="")
    for flag in ("--master-addr", "--distributed-executor-backend"):
        parser.add_argument(flag, default="")
    for flag in (
        "--tensor-parallel-size",
        "--pipeline-parallel-size",
        "--nnodes",
        "--node-rank",
        "--master-port",
        "--max-num-seqs",
        "--max-loras",
        "--max-lora-rank",
        "--max-model-len",
        "--seed",
    ):
        parser.add_argument(flag, type=int, default=0)
    parser.add_argument("--gpu-memory-utilization", type=float, default=0.9)
    for flag in ("--served-model-name", "--allowed-media-domains", "--lora-modules"):
        parser.add_argument(flag, nargs="+", default=[])
    for flag in (
        *("--disable-uvicorn-access-log", "--enable-prompt-tokens-details", "--enable-tokenizer-info-endpoint"),
        *(
            "--trust-remote-code",
            "--enable-sleep-mode",
            "--enable-auto-tool-choice",
            "--enable-lora",
            "--enforce-eager",
            "--headless",
        ),
    ):
        parser.add_argument(flag, action="store_true")
    return parser.parse_args(words)


def say(text: str, process: str = "EngineCore", level: str = "INFO") -> None:
    print(f"({process} pid={os.getpid()}) {level} 11-23 04:00:00 [somewhere.py:1] {text}", flush=True)


def die(*lines: str, code: int = 1) -> None:
    """The engine's error, then the long end that vLLM's server writes below it."""
    for line in lines:
        say(line, level="ERROR")
    print("(APIServer pid=1) Traceback (most recent call last):")
    for number in range(40):
        print(f'(APIServer pid=1)   File "vllm/somewhere_{number}.py", line {number}, in run')
    print(
        "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s):"
    )
    sys.stdout.flush()
    os._exit(code)


class State:
    """What the server knows; one per process."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.fails = os.environ.get("STAND_IN_FAILS", "")
        self.length = args.max_model_len or 4096
        self.names = list(args.served_model_name) or [args.model]
        self.names += [json.loads(word)["name"] for word in args.lora_modules]
        self.lock = threading.Lock()
        self.running = self.generated = self.prompted = self.finished = 0
        self.sleeping = self.dead = self.hung = False
        self.engine: subprocess.Popen[bytes] | None = None
        self.others: list[socket.socket] = []
        """The other nodes, once they have met."""

    def once(self, what: str) -> bool:
        """Whether this is the first time."""
        mark = Path(os.environ["STAND_IN_STATE"]) / what
        if mark.exists():
            return False
        mark.touch()
        return True


def start(state: State) -> None:
    """What vLLM prints while it starts, and how it ends when it cannot."""
    args, fails = state.args, state.fails
    pause = float(os.environ.get("STAND_IN_STEP_S", "0.02"))

    def step(text: str, process: str = "EngineCore") -> None:
        say(text, process)
        time.sleep(pause)

    step("vLLM API server version 0.25.1, serving model x", "APIServer")
    if fails == "port_once" and state.once(fails):
        die("OSError: [Errno 98] Address already in use")
    if fails == "driver":
        die("RuntimeError: The NVIDIA driver on your system is too old (found version 11040).")
    if fails == "library":
        die("ImportError: libcudart.so.13: cannot open shared object file: No such file or directory")
    if fails == "architecture":
        die(
            "ValueError: Model architectures ['OddForCausalLM'] are not supported for now. Supported architectures: ..."
        )
    if fails == "gated":
        die("OSError: You are trying to access a gated repo.")
    if fails == "remote_code" and not args.trust_remote_code:
        die(
            "RuntimeError: Failed to load the model config, consider setting the `--trust-remote-code` flag in the CLI."
        )
    if fails == "tokenizer" and not args.tokenizer:
        die("RuntimeError: Failed to load the tokenizer. If the tokenizer is a custom tokenizer")
    if fails == "busy_gpu_once" and args.gpu_memory_utilization > 0.5:
        die(
            "ValueError: Free memory on device cuda:0 (40.0/80.0 GiB) on startup is less than desired GPU memory "
            f"utilization ({args.gpu_memory_utilization}, 72.0 GiB). Decrease GPU memory utilization or reduce"
        )
    meet(state)
    step("Starting to load model x...")
    if fails == "oom_once" and state.once(fails):
        die("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")
    for done in (0, 1, 2):
        print(
            f"\rLoading safetensors checkpoint shards: {50 * done:3d}% Completed | {done}/2 [00:00<00:00, 2.00it/s]\n",
            end="",
            flush=True,
        )
        time.sleep(pause)
    step("Loading weights took 1.50 seconds")
    step("Model loading took 13.5 GiB memory and 3.250000 seconds")
    step("Using cache directory: /tmp/x for vLLM's torch.compile")
    step("Dynamo bytecode transform time: 4.10 s")
    if fails == "hang_start":
        time.sleep(3600)
    step("torch.compile took 20.50 s in total")
    if fails == "no_memory":
        die("ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`")
    if fails == "kv_once" and state.length > 1000:
        die(
            f"ValueError: To serve at least one request with the model's max seq len ({state.length}), (16.0 GiB KV "
            "cache is needed, which is larger than the available KV cache memory (4.0 GiB). Based on the available "
            "memory, the estimated maximum model length is 1000. Try increasing `gpu_memory_utilization`"
        )
    step("Available KV cache memory: 50.5 GiB")
    step("GPU KV cache size: 410,000 tokens")
    step("Maximum concurrency for 4,096 tokens per request: 100.10x")
    for done in (0, 20, 51):
        bar = f"\rCapturing CUDA graphs (mixed prefill-decode, PIECEWISE): {done * 2}%|####| {done}/51 [00:01<00:00]"
        print(bar, end="", flush=True)
        time.sleep(pause)
    print(flush=True)
    step("Graph capturing finished in 5 secs, took 0.50 GiB")
    step("init engine (profile, create kv cache, warmup model) took 30.00 s")
    if not args.headless:
        step(f"Starting vLLM server on unix:{args.uds}", "APIServer")


def meet(state: State) -> None:
    """Wait for the other nodes: rank 0 for all, which tell it their rank, the others for it."""
    args = state.args
    if args.nnodes < 2:
        return
    assert args.distributed_executor_backend == "mp", args
    assert os.environ["VLLM_HOST_IP"], "each node says where it is reached"
    world = max(1, args.tensor_parallel_size) * max(1, args.pipeline_parallel_size)
    assert world % args.nnodes == 0, f"world_size={world} must be divisible by nnodes={args.nnodes}."
    where = (args.master_addr, args.master_port)
    if args.node_rank:
        state.others.append(reach(where))
        state.others[0].sendall(bytes([args.node_rank]))
        assert state.others[0].recv(1) == b"!"
        return
    with socket.create_server(where) as door:
        ranks = set()
        while len(ranks) < args.nnodes - 1:
            other, _ = door.accept()
            ranks.add(other.recv(1))
            state.others.append(other)
    for other in state.others:
        other.sendall(b"!")


def reach(where: tuple[str, int]) -> socket.socket:
    while True:
        try:
            return socket.create_connection(where, timeout=60)
        except ConnectionRefusedError:
            time.sleep(0.05)


def watch_others(state: State) -> None:
    """Whatever needs a node that is gone waits for it for ever."""
    for other in state.others:
        other.settimeout(None)
        if not other.recv(1):
            state.hung = True


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: State

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        state, path = self.state, self.path.partition("?")[0]
        if state.fails == "silent" and (Path(os.environ["STAND_IN_STATE"]) / "now").exists():
            time.sleep(3600)
        if path == "/health":
            self.answer(None, 503 if state.dead else 200)
        elif path == "/v1/models":
            self.answer({"data": [{"id": name, "max_model_len": state.length} for name in state.names]})
        elif path == "/metrics":
            self.answer(metrics(state), kind="text/plain")
        elif path == "/version":
            self.answer({"version": "0.25.1"})
        elif path == "/openapi.json":
            self.answer(described())
        elif path == "/tokenizer_info":
            self.answer({"tokenizer_class": "StandIn", "argv": sys.argv[1:]})
        elif path == "/is_sleeping" and self.developing():
            self.answer({"is_sleeping": state.sleeping})
        else:
            self.answer({"detail": "Not Found"}, 404)

    def developing(self) -> bool:
        return os.environ.get("VLLM_SERVER_DEV_MODE") == "1" and bool(self.state.args.enable_sleep_mode)

    def do_POST(self) -> None:
        state, path = self.state, self.path.partition("?")[0]
        body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
        if path in ("/sleep", "/wake_up") and self.developing():
            state.sleeping = path == "/sleep"
            self.answer(None)
            return
        if path in ROUTES and body.get("model") not in (None, *state.names):
            message = f"The model `{body['model']}` does not exist."
            self.answer({"error": {"message": message, "type": "NotFoundError", "param": "model", "code": 404}}, 404)
        elif path == "/tokenize":
            ids = list(range(len(str(body.get("prompt", "")).split())))
            self.answer({"count": len(ids), "max_model_len": state.length, "tokens": ids})
        elif path in ("/v1/chat/completions", "/v1/completions"):
            self.complete(path, body)
        else:
            self.answer({"detail": "Not Found"}, 404)

    def complete(self, path: str, body: dict[str, Any]) -> None:
        state = self.state
        with state.lock:
            state.running += 1
            state.prompted += 3
        try:
            if state.fails == "hang" and (Path(os.environ["STAND_IN_STATE"]) / "now").exists():
                state.hung = True
            while state.hung or state.sleeping:
                time.sleep(0.1)
            asked = int(body.get("max_completion_tokens") or body.get("max_tokens") or 16)
            if body.get("stream"):
                self.stream(path, body, asked)
            else:
                text = "".join(self.tokens(asked))
                message = {"message": {"role": "assistant", "content": text}} if "chat" in path else {"text": text}
                usage = {"prompt_tokens": 3, "completion_tokens": asked, "total_tokens": 3 + asked}
                choice = {"index": 0, "finish_reason": "length", **message}
                self.answer({"id": "x", "model": body.get("model"), "choices": [choice], "usage": usage})
        finally:
            with state.lock:
                state.running -= 1
                state.finished += 1

    def tokens(self, count: int) -> Any:
        state, pause = self.state, float(os.environ.get("STAND_IN_TOKEN_S", "0.002"))
        for number in range(count):
            time.sleep(pause)
            if number == 3 and state.fails == "die_mid_stream" and state.once(state.fails):
                assert state.engine is not None
                os.kill(state.engine.pid, signal.SIGKILL)
                time.sleep(3600)
            with state.lock:
                state.generated += 1
            yield f"w{number} "

    def stream(self, path: str, body: dict[str, Any], asked: int) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number, word in enumerate(self.tokens(asked)):
            reason = "length" if number == asked - 1 else None
            piece = {"delta": {"content": word}} if "chat" in path else {"text": word}
            self.event({"model": body.get("model"), "choices": [{"index": 0, "finish_reason": reason, **piece}]})
        if (body.get("stream_options") or {}).get("include_usage"):
            usage = {"prompt_tokens": 3, "completion_tokens": asked, "total_tokens": 3 + asked}
            self.event({"model": body.get("model"), "choices": [], "usage": usage})
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def event(self, value: Any) -> None:
        self.chunk(b"data: " + json.dumps(value).encode() + b"\n\n")

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def answer(self, value: Any, status: int = 200, kind: str = "application/json") -> None:
        data = b"" if value is None else value.encode() if isinstance(value, str) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def metrics(state: State) -> str:
    labels = '{engine="0",model_name="x"}'
    with state.lock:
        lines = [
            f"vllm:num_requests_running{labels} {float(state.running)}",
            f"vllm:num_requests_waiting{labels} 0.0",
            f"vllm:kv_cache_usage_perc{labels} {min(1.0, state.running / 100)}",
            f"vllm:prompt_tokens_total{labels} {float(state.prompted)}",
            f"vllm:generation_tokens_total{labels} {float(state.generated)}",
            f"vllm:iteration_tokens_total_count{labels} {float(state.generated)}",
        ]
        for bound in ("0.1", "0.2", "+Inf"):
            lines.append(
                f'vllm:time_to_first_token_seconds_bucket{{engine="0",le="{bound}",model_name="x"}} {state.finished}.0'
            )
    return "\n".join(lines) + "\n"


def described() -> dict[str, Any]:
    """The part of its OpenAPI description that says which fields it reads."""
    schemas: dict[str, Any] = {name: {"properties": {field: {} for field in fields}} for name, fields in ROUTES.items()}
    paths = {}
    for route in ROUTES:
        reference = {"$ref": f"#/components/schemas/{route.replace('/', '-')}"}
        paths[route] = {"post": {"requestBody": {"content": {"application/json": {"schema": reference}}}}}
    return {"paths": paths, "components": {"schemas": {name.replace("/", "-"): each for name, each in schemas.items()}}}


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 1024


def note(pid: int, what: str) -> None:
    if os.environ.get("STAND_IN_PIDS"):
        with Path(os.environ["STAND_IN_PIDS"]).open("a", encoding="utf-8") as pids:
            pids.write(f"{what} {pid}\n")


def stop(state: State) -> None:
    if state.engine is not None:
        state.engine.kill()
    os._exit(0)


def watch_engine(state: State) -> None:
    assert state.engine is not None
    state.engine.wait()
    state.dead = True
    say("EngineCore encountered a fatal error: EngineDeadError", level="ERROR")
    time.sleep(1.0)
    os._exit(1)


def follow(state: State) -> None:
    """A node without a server, until it is told to end."""
    state.engine = subprocess.Popen([sys.executable, "-c", ENGINE], start_new_session=True)
    note(state.engine.pid, "part")
    start(state)
    say("It waits for steps of the first node")
    while state.engine.poll() is None:
        time.sleep(0.1)
    say("Worker proc VllmWorker-1 died unexpectedly, shutting down executor.", level="ERROR")
    # vLLM returns from its monitor as though all were well.
    sys.exit(0)


def main() -> None:
    state = State(parse(sys.argv[1:]))
    note(os.getpid(), "follower" if state.args.headless else "server")
    signal.signal(signal.SIGTERM, lambda *_: stop(state))
    if state.args.headless:
        follow(state)
        return
    # The address is taken before the model is loaded, as vLLM does, and listened on afterwards.
    server = Server(state.args.uds, Handler, bind_and_activate=False)
    server.server_bind()
    # Worse than vLLM's own engine process, which stays in the group: this one leaves it.
    state.engine = subprocess.Popen([sys.executable, "-c", ENGINE], start_new_session=True)
    note(state.engine.pid, "engine")
    start(state)
    threading.Thread(target=watch_engine, args=(state,), daemon=True).start()
    threading.Thread(target=watch_others, args=(state,), daemon=True).start()
    Handler.state = state
    server.server_activate()
    server.socket.settimeout(None)
    assert server.socket.family == socket.AF_UNIX
    server.serve_forever()


if __name__ == "__main__":
    main()
