"""Votes in and out of files: FastChat's logs and cleaned battles, preference pairs, fine-tuning data, CSV, JSON."""

from __future__ import annotations

from daemon.arena.exchange.exporting import export_lines
from daemon.arena.exchange.importing import add, import_data, judged_battle

__all__ = ["add", "export_lines", "import_data", "judged_battle"]
