"""Engines that are programs with an environment of their own: where they are, and how they get there."""

from __future__ import annotations

from fcd.engines.environment import EngineInfo, find_engine

__all__ = ["EngineInfo", "find_engine"]
