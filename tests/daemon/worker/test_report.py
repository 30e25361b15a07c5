from __future__ import annotations

import io

import msgspec

from daemon.worker.report import Reporter
from fcd.wire.admin import WorkerEvent

WHY = "'m.safetensors' was cut short.\nDownload it again."


def test_why_a_worker_failed_is_an_error_in_its_log() -> None:
    """Screens of logs know errors by the level at a line's start; what follows belongs to it."""
    events, log = io.BytesIO(), io.StringIO()
    Reporter(events=events, stderr=log).error(WHY)
    assert log.getvalue() == f"error: {WHY}\n"
    assert msgspec.json.decode(events.getvalue(), type=WorkerEvent).error == WHY


def test_a_person_is_told_why_in_a_sentence() -> None:
    terminal = io.StringIO()
    Reporter(events=None, stderr=terminal).error(WHY)
    assert terminal.getvalue() == f"{WHY}\n"
