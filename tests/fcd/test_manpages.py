"""The manual is what the program says, and every page can be read."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fcd import settings
from fcd.cli import manpages
from fcd.cli.routes import ROUTES

ROOT = Path(__file__).resolve().parent.parent.parent
_DECORATED = re.compile(r"@\w+\.(get|post|delete|put|patch)\(\s*\"([^\"]+)\"")


def test_the_pages_are_current() -> None:
    assert manpages.stale(ROOT / "man") == [], "python -m fcd.cli.manpages writes them"


def test_every_setting_is_on_its_page() -> None:
    page = manpages.pages()["fcd-config.5"]
    for name in settings.setting_names():
        assert f"\\fB{name.rpartition('.')[2]}\\fR (" in page


def test_every_setting_says_what_it_is() -> None:
    undocumented = [field.name for table, _, fields in manpages.read_settings() for field in fields
                    if not field.meaning and table != "[models.NAME]"]  # fmt: skip
    assert set(undocumented) <= {"log_level", "theme", "ascii"}


def test_the_routes_are_those_that_the_daemon_has() -> None:
    from daemon.gateway.routes import RELAYED, TOKENIZER

    served = {("POST", path) for path in (*RELAYED, *TOKENIZER)}
    for folder in ("daemon/gateway", "daemon/controller", "daemon/routes", "daemon/arena", "daemon/chats"):
        for file in (ROOT / folder).glob("*.py"):
            for method, path in _DECORATED.findall(file.read_text(encoding="utf-8")):
                served.add((method.upper(), re.sub(r"<[^>]+>", "{}", path)))
    told = {
        (method, re.sub(r"{[^}]+}", "{}", route.path))
        for _, _, routes in ROUTES
        for route in routes
        for method in route.methods.split()
    }
    assert told - served == set(), "told of, but not served"
    assert {entry for entry in served - told if not entry[1].startswith("/api/events/")} == set(), (
        "served, but not told of"
    )


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff reads the pages")
def test_the_pages_can_be_read() -> None:
    for file in sorted((ROOT / "man").iterdir()):
        done = subprocess.run(["groff", "-man", "-ww", "-Tutf8", str(file)], capture_output=True, text=True, timeout=60)
        assert done.stderr == "", file.name
        assert done.returncode == 0
