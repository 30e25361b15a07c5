"""The arrows of docs/architecture.md, read from the code's own imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "sanic", "vllm")


def modules(package: str) -> Iterator[Path]:
    return (ROOT / package).rglob("*.py")


def imports(path: Path) -> set[str]:
    """Top-level names of everything that a file imports, lazily or not."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
    return found


def offenders(package: str, forbidden: tuple[str, ...], allowed: tuple[str, ...] = ()) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(package)
        if not str(path.relative_to(ROOT)).startswith(allowed)
        for name in imports(path)
        if name.split(".")[0] in forbidden
    ]


def test_the_floors_do_not_import_upwards() -> None:
    assert offenders("tui", ("daemon",)) == []
    assert offenders("daemon", ("tui",)) == []
    assert offenders("fcd", ("daemon", "tui"), allowed=("fcd/cli/",)) == []


def test_model_libraries_stay_in_the_engine_and_in_training() -> None:
    libraries = ("torch", "transformers", "accelerate", "bitsandbytes", "vllm")
    assert offenders("daemon", libraries, allowed=("daemon/engines/transformers/",)) == []
    assert offenders("fcd", libraries, allowed=("fcd/builtin/",)) == []
    assert offenders("tui", libraries) == []


def test_the_grammar_compiler_stays_in_its_package() -> None:
    """It imports torch, which only engines may."""
    assert offenders("daemon", ("xgrammar",), allowed=("daemon/engines/structured/",)) == []
    assert offenders("fcd", ("xgrammar",)) == []


def test_ray_stays_in_the_cluster_agent() -> None:
    """It keeps global state, and ends the process that it is in when its cluster goes."""
    cluster = ("ray_calls", "host", "run", "group", "entry")
    allowed = tuple(f"daemon/cluster/{name}.py" for name in cluster)
    assert offenders("daemon", ("ray", "grpc"), allowed=allowed) == []
    assert offenders("fcd", ("ray", "grpc")) == []
    importers = [path for path in modules("daemon") if "daemon.cluster.ray_calls" in imports(path)]
    assert [path.name for path in importers] == ["agent.py"]


def test_sanic_stays_in_the_daemon() -> None:
    assert offenders("fcd", ("sanic",)) == []
    assert offenders("tui", ("sanic",)) == []


@pytest.mark.parametrize(
    "statement",
    [
        "import runpy; runpy.run_module('fcd', run_name='__main__', alter_sys=True)",
        "import fcd.client",
        "import tui.app",
    ],
    ids=["fcd --help", "fcd.client", "tui.app"],
)
def test_what_a_person_waits_for_imports_nothing_heavy(statement: str) -> None:
    code = f"""
import sys
sys.argv = ["fcd", "--help"]
try:
    {statement}
except SystemExit:
    pass
print(*[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == ""
