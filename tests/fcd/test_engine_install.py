"""`fcd engine`: which release, and installs by the real pip from an index of tiny wheels, interrupted and finished."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from fcd.engines import install as installing
from fcd.engines.environment import engine_folder, read_marker
from fcd.engines.releases import choose, fits
from fcd.errors import FcdError, UsageError
from fcd.instance import try_lock
from fcd.nvml import Card, Reading
from fcd.paths import Paths, resolve_paths
from fcd.wire.admin import Progress

ROOT = Path(__file__).resolve().parent.parent.parent


def reading(driver: str, capability: tuple[int, int] = (9, 0)) -> Reading:
    return Reading(driver, (13, 0), (Card("GPU-a", "Card", 2**30, 2**30, capability=capability),))


@pytest.mark.parametrize(
    ("driver", "version"),
    [("580.95.05", "0.25.1"), ("600.1", "0.25.1"), ("570.10", "0.19.1"), ("525.60.13", "0.19.1")],
)
def test_the_release_follows_the_driver(driver: str, version: str) -> None:
    found = choose(reading(driver), system="Linux")
    assert (found.version, found.reason) == (version, "")
    assert choose(reading(driver), "0.30.0", system="Linux").version == "0.30.0"


@pytest.mark.parametrize(
    ("found", "system", "said"),
    [
        (None, "Linux", "no driver here"),
        (Reading("580.1", (13, 0), ()), "Linux", "NVIDIA GPU"),
        (reading("470.1"), "Linux", "driver is 470.1"),
        (reading("580.1", (7, 0)), "Linux", "capability 7.5"),
        (reading("580.1"), "Darwin", "Linux"),
    ],
)
def test_why_it_would_not_run(found: Reading | None, system: str, said: str) -> None:
    choice = choose(found, system=system, why_none="no driver here")
    assert said in choice.reason
    assert choice.version


def test_a_version_is_a_version() -> None:
    for word in ("1.2 --pre", "latest", "-r", ""):
        if word:
            with pytest.raises(UsageError):
                choose(None, word)
    assert [fits(python) for python in ((3, 9), (3, 10), (3, 13), (3, 14))] == [False, True, True, False]


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return resolve_paths({"FCD_HOME": str(tmp_path / "home")})


def test_a_full_disk_is_said_before_anything_is_done(paths: Paths) -> None:
    with pytest.raises(FcdError, match="GB free"):
        installing.install("vllm", "1.2.3", paths, lambda progress: None, need_bytes=10**18)
    assert not engine_folder(paths, "vllm").exists()


def test_there_is_one_install_at_a_time(paths: Paths) -> None:
    lock = try_lock(engine_folder(paths, "vllm").with_suffix(".lock"))
    assert lock is not None
    with lock, pytest.raises(FcdError, match="another process"):
        installing.install("vllm", "1.2.3", paths, lambda progress: None, need_bytes=0)


def test_what_was_being_unpacked_is_not_taken_for_installed(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "python3.12" / "site-packages"
    for name, files in (("whole-1.dist-info", ("METADATA", "RECORD")), ("half-1.dist-info", ("METADATA",))):
        (site / name).mkdir(parents=True)
        for file in files:
            (site / name / file).touch()
    installing._discard_half_installed(tmp_path)
    assert [each.name for each in site.iterdir()] == ["whole-1.dist-info"]


def test_pip_s_output_becomes_progress() -> None:
    said: list[Progress] = []
    work = installing._Work({}, open(os.devnull, "w"), 0, said.append)  # noqa: SIM115
    stage = ""
    for line in (
        "Collecting vllm==1.2.3",
        "Downloading https://x.example/vllm-1.2.3-py3-none-any.whl (400.1 MB)",
        "Progress 10 of 400",
        "Installing collected packages: a, b, vllm",
        "WARNING: whatever",
    ):
        stage = work._read(line, stage, [])
    assert [(each.stage, each.done, each.total) for each in said] == [
        ("working out what is needed", 0, 0),
        ("downloading vllm-1.2.3-py3-none-any.whl (400.1 MB)", 0, 0),
        ("downloading vllm-1.2.3-py3-none-any.whl (400.1 MB)", 10, 400),
        ("installing collected packages", 0, 0),
    ]


def make_wheel(folder: Path, name: str, version: str, requires: str = "") -> Path:
    """A whole wheel whose module fails when it is imported."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {
        f"{name}/__init__.py": "raise RuntimeError('imported')\n",
        f"{info}/METADATA": metadata + (f"Requires-Dist: {requires}\n" if requires else ""),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for file, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{file},sha256={digest},{len(text)}\n"
    files[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)
    return path


class Index(ThreadingHTTPServer):
    """Serves wheels; `stalls` names one whose second half never comes."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.stalls = ""
        self.stalled = threading.Event()
        self.over = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        name = self.path.strip("/")
        if not name:
            links = "".join(f'<a href="/{each.name}">{each.name}</a>' for each in self.server.folder.iterdir())
            self._begin("text/html", len(links))
            self.wfile.write(links.encode())
            return
        data = (self.server.folder / name).read_bytes()
        self._begin("application/octet-stream", len(data))
        if self.server.stalls and name.startswith(self.server.stalls):
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.server.stalled.set()
            self.server.over.wait(60)
            return
        self.wfile.write(data)

    def _begin(self, kind: str, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    folder = tmp_path / "wheels"
    folder.mkdir()
    make_wheel(folder, "vllm", "1.2.3", "tinydep>=1")
    make_wheel(folder, "tinydep", "1.0")
    server = Index(folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


def until(condition: Callable[[], object], within: float = 60.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_an_interrupted_install_leaves_nothing_behind_and_is_finished_by_the_next(tmp_path: Path, index: Index) -> None:
    home = tmp_path / "home"
    env = {name: value for name, value in os.environ.items() if not name.startswith(("FCD_", "PIP_"))}
    env |= {
        "FCD_HOME": str(home),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": f"http://127.0.0.1:{index.server_port}/",
        "PIP_CACHE_DIR": str(tmp_path / "cache"),
        "PATH": "/usr/bin:/bin",
    }
    folder = engine_folder(resolve_paths(env), "vllm")

    def fcd(*words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "fcd", "engine", *words],
            cwd=ROOT,
            env=env,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def listed() -> dict[str, object]:
        out, _ = fcd("list", "--json").communicate(timeout=60)
        found: dict[str, object] = next(row for row in json.loads(out)["engines"] if row["name"] == "vllm")
        return found

    refused = fcd("install", "vllm", "--version", "1.2.3")
    _, said = refused.communicate(timeout=60)
    assert refused.returncode == 1, "without a GPU only --force installs"
    assert "--force" in said

    index.stalls = "tinydep"
    for number, code in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
        index.stalled.clear()
        installer = fcd("install", "vllm", "--version", "1.2.3", "--force")
        until(index.stalled.is_set)
        children = psutil.Process(installer.pid).children(recursive=True)
        assert children
        installer.send_signal(number)
        _, said = installer.communicate(timeout=30)
        assert installer.returncode == code, said
        until(lambda children=children: not any(each.is_running() for each in children), 10)  # type: ignore[misc]
        assert read_marker(folder) is None
        assert (listed()["source"], listed()["runnable"]) == ("", False)
    assert "goes on from here" in said

    index.stalls = ""
    finished = fcd("install", "vllm", "--version", "1.2.3", "--force")
    out, said = finished.communicate(timeout=120)
    assert finished.returncode == 0, said
    assert "vllm 1.2.3 is installed." in out
    row = listed()
    assert (row["source"], row["version"], row["runnable"]) == ("installed", "1.2.3", False)
    assert "NVIDIA" in str(row["reason"])

    unasked = fcd("remove", "vllm")
    unasked.communicate(timeout=60)
    assert unasked.returncode == 2, "without a terminal it cannot ask"
    removed = fcd("remove", "vllm", "--yes")
    removed.communicate(timeout=60)
    assert removed.returncode == 0
    assert not folder.exists()


@pytest.mark.slow
def test_a_version_that_does_not_exist_is_said_with_pip_s_words(paths: Paths, index: Index, tmp_path: Path) -> None:
    env = {"PATH": "/usr/bin:/bin", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "wheels")}
    with pytest.raises(FcdError, match="No matching distribution") as failure:
        installing.install("vllm", "9.9.9", paths, lambda progress: None, environ=env, need_bytes=0)
    assert "engine-vllm.log" in failure.value.hint
    marker = installing.install("vllm", "1.2.3", paths, lambda progress: None, environ=env, need_bytes=0)
    assert marker.version == "1.2.3"
    assert installing.install("vllm", "1.2.3", paths, lambda progress: None, environ={}, need_bytes=0) == marker
