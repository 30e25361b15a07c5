"""Flags of `fcd arena` as the daemon's query."""

from __future__ import annotations

import argparse
import time
from datetime import datetime

from fcd.errors import ConfigError, UsageError
from fcd.settings import parse_duration
from fcd.wire.arena import LeaderboardQuery


def query_of(args: argparse.Namespace) -> LeaderboardQuery:
    now = time.time()
    return LeaderboardQuery(
        method=getattr(args, "method", "bradley_terry"),
        intervals=getattr(args, "intervals", "sandwich"),
        rounds=getattr(args, "rounds", 1000),
        source=args.source,
        named=args.named,
        flagged=args.flagged,
        since=moment(args.since, now, "--since"),
        until=moment(args.until, now, "--until"),
        min_tokens=args.min_tokens,
        max_tokens=args.max_tokens,
        language=args.language,
        models=names(args.models),
        tag=args.tag,
        voter=args.voter,
        style_control=getattr(args, "style_control", False),
    )


def names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def moment(text: str, now: float, flag: str) -> float:
    """Unix time of `2026-01-31`, `2026-01-31T12:00` or `7d` (ago); 0 for nothing.

    Raises:
        UsageError: it is neither.
    """
    if not text:
        return 0.0
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        pass
    try:
        return now - parse_duration(text)
    except ConfigError:
        raise UsageError(
            f"fcd arena: {flag} '{text}' is neither a date nor a duration.",
            hint="Write 2026-01-31, or 7d for a week ago.",
        ) from None
