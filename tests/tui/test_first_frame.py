"""What the interface does before a person sees it: as little as it can."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

LATER = (
    "httpx2", "httpx", "pygments", "markdown_it", "psutil", "huggingface_hub", "aiohttp", "textual_serve", "torch",
    "transformers", "sanic", "numpy", "prompt_toolkit", "fcd.client", "fcd.cli", "fcd.catalog", "tui.markdown.code",
    "tui.screens.battle", "tui.screens.arena", "tui.screens.workers", "tui.screens.logs", "tui.widgets.pickers",
    "tui.widgets.body", "tui.web",
)  # fmt: skip

PROBE = """
import json, sys
from fcd.settings import Settings
from textual.css.stylesheet import Stylesheet
from tui.app import FcdApp

parsed = []
reparse = Stylesheet.reparse
Stylesheet.reparse = lambda self: (parsed.append(1), reparse(self))[1]

async def factory(address):
    raise AssertionError("a connection before the first frame")

def connect(app):
    app.exit()
    shown = "\\n".join(strip.text for strip in app.screen._compositor.render_strips())
    state = {"modules": sorted(sys.modules), "shown": shown, "theme": app.theme, "parsed": len(parsed)}
    open(sys.argv[1], "w").write(json.dumps(state))

FcdApp._connect = connect
FcdApp(Settings(), client_factory=factory).run(headless=True, size=(80, 24))
"""


def first_frame(tmp_path: Path) -> dict[str, object]:
    report = tmp_path / "report.json"
    script = tmp_path / "probe.py"
    script.write_text(PROBE)
    root = str(Path(__file__).resolve().parents[2])
    environ = {**os.environ, "PYTHONPATH": root, "FCD_HOME": str(tmp_path), "TERM": "xterm-256color"}
    subprocess.run([sys.executable, str(script), str(report)], check=True, env=environ, timeout=60)
    decoded: dict[str, object] = json.loads(report.read_text())
    return decoded


def test_the_first_frame_waits_for_nothing_that_it_does_not_show(tmp_path: Path) -> None:
    state = first_frame(tmp_path)
    assert "Talk to a language model" in str(state["shown"])
    assert "connecting" in str(state["shown"])
    loaded = state["modules"]
    assert isinstance(loaded, list)
    assert [name for name in loaded if name.startswith(tuple(f"{later}." for later in LATER)) or name in LATER] == []


def test_the_styles_are_parsed_once(tmp_path: Path) -> None:
    """Textual asks for the colours of the theme again at every start."""
    assert first_frame(tmp_path)["parsed"] == 0
