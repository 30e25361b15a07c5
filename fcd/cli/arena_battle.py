"""`fcd arena battle`: a battle in any terminal, without colours or a screen of its own."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from fcd.cli.arena_query import names
from fcd.cli.output import note, printable
from fcd.errors import EXIT_OK, ApiError
from fcd.wire.arena import BattleEvent, BattleInfo, BattleRequest, Outcome, Sampling, Side

if TYPE_CHECKING:
    from fcd.client import Address, Client

_KEYS: dict[str, Outcome] = {"a": "a", "b": "b", "t": "tie", "x": "both_bad", "s": "skip"}
_ASK = "a: A is better  b: B is better  t: tie  x: both bad  s: skip  f: ask on  r: both again  q: leave > "


async def battle(args: argparse.Namespace) -> int:
    from fcd.client import Client

    prompt = " ".join(args.prompt) or await _line("You: ")
    if not prompt:
        return EXIT_OK
    address = await asyncio.to_thread(_ensure)
    request = BattleRequest(
        mode="named" if args.named else "blind",
        models=names(args.models),
        pool=args.pool,
        pairing=args.pairing,
        system=args.system,
        sampling=Sampling(args.temperature, args.top_p, args.max_new_tokens, args.seed),
        voter=args.voter,
    )
    async with Client(address) as client:
        info = await client.create_battle(request)
        return await _Battle(client, info).run(prompt)


class _Battle:
    def __init__(self, client: Client, info: BattleInfo) -> None:
        self._client = client
        self._info = info

    async def run(self, prompt: str) -> int:
        await self._show(self._client.battle_turn(self._info.id, prompt))
        while True:
            key = (await _key(_ASK)).lower()
            if key in _KEYS:
                if await self._vote(_KEYS[key]):
                    return EXIT_OK
            elif key == "f":
                more = await _line("You: ")
                if more:
                    await self._show(self._client.battle_turn(self._info.id, more))
            elif key == "r":
                await self._show(self._client.battle_regenerate(self._info.id))
            elif key in ("q", ""):
                note("No vote was given.")
                return EXIT_OK

    async def _show(self, events: AsyncGenerator[BattleEvent, None]) -> None:
        """A's answer as it comes, then B's, which came at the same pace."""
        held: list[str] = []
        last: dict[Side, str] = {"a": "", "b": ""}
        a_over = False
        print(f"\n--- {self._name('a')} ---", flush=True)
        async with aclosing(events):
            async for event in events:
                if event.side is None:
                    continue
                text = printable(event.text) if event.type == "delta" else ""
                if event.type == "failed":
                    text = f"[{event.error}]"
                last[event.side] = text or last[event.side]
                if event.side == "b" and not a_over:
                    held.append(text)
                    continue
                sys.stdout.write(text)
                sys.stdout.flush()
                if event.side == "a" and event.type in ("done", "failed"):
                    a_over = True
                    print(f"\n\n--- {self._name('b')} ---")
                    sys.stdout.write("".join(held))
                    sys.stdout.flush()
        print("\n", flush=True)

    async def _vote(self, outcome: Outcome) -> bool:
        """Vote; False when it was taken back."""
        try:
            info = await self._client.vote(self._info.id, outcome)
        except ApiError as error:
            note(error.message)
            return False
        left = info.undo_until - time.time()
        if sys.stdin.isatty() and left > 0.2:
            key = await _key(f"Voted: {_said(outcome)}. u takes it back for {left:.0f} s; another key shows names > ")
            if key.lower() == "u":
                try:
                    await self._client.undo(self._info.id)
                    note("The vote is taken back.")
                    return False
                except ApiError as error:
                    note(error.message)
        print(_revealed(await self._client.reveal(self._info.id)))
        return True

    def _name(self, side: Side) -> str:
        model = self._info.model_a if side == "a" else self._info.model_b
        letter = side.upper()
        return f"{letter}: {model}" if model else f"Model {letter}"


def _revealed(info: BattleInfo) -> str:
    lines = []
    for letter, model, side in (("A", info.model_a, "a"), ("B", info.model_b, "b")):
        numbers = [stats for turn in info.turns if (stats := getattr(turn, side).stats) is not None]
        speed = max((each.tokens_per_second for each in numbers), default=0.0)
        first = min((each.ttft_s for each in numbers if each.ttft_s), default=0.0)
        change = next((each for each in info.ratings if each.model == model), None)
        parts = [f"{letter} = {model}"]
        if speed:
            parts.append(f"{speed:.0f} tok/s, first token after {first:.2f} s")
        if change is not None:
            parts.append(f"{change.before:.0f} -> {change.after:.0f} +-{change.margin:.0f}")
        lines.append("   ".join(parts))
    if "identity" in info.flags:
        lines.append("An answer named its model: this vote is kept, and does not count.")
    if "failed" in info.flags:
        lines.append("An answer broke off: this vote is kept, and does not count.")
    return "\n".join(lines)


def _said(outcome: Outcome) -> str:
    return {"a": "A is better", "b": "B is better", "tie": "tie", "both_bad": "both bad", "skip": "skipped"}[outcome]


async def _line(prompt: str) -> str:
    """A line that is typed or piped; empty at the end of input."""

    def read() -> str:
        if sys.stdin.isatty():
            print(prompt, end="", flush=True)
        return sys.stdin.readline().strip()

    return await asyncio.to_thread(read)


async def _key(prompt: str) -> str:
    """One key on a terminal, the first letter of a line elsewhere; empty at the end of input."""
    return await asyncio.to_thread(_read_key, prompt)


def _read_key(prompt: str) -> str:
    print(prompt, end="", flush=True)
    if not sys.stdin.isatty():
        text = sys.stdin.readline()
        print(flush=True)
        return text.strip()[:1] if text.strip() else ""
    try:
        key = _raw_key()
    finally:
        print(flush=True)
    if key in ("\x03", "\x04"):
        raise KeyboardInterrupt
    return key


def _raw_key() -> str:
    try:
        import termios
        import tty
    except ImportError:  # Windows
        import msvcrt

        getwch: Any = msvcrt.getwch  # type: ignore[attr-defined]
        return str(getwch())
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    try:
        tty.setcbreak(number)
        import os

        return os.read(number, 1).decode("utf-8", "replace")
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def _ensure() -> Address:
    """Where the daemon is; started when it is not up."""
    from fcd.cli.ensure import ensure_daemon
    from fcd.cli.progress import ProgressDisplay
    from fcd.paths import resolve_paths
    from fcd.settings import load_settings

    paths = resolve_paths()
    with ProgressDisplay("Starting the daemon") as progress:
        return ensure_daemon(paths, load_settings(paths.config_file), progress)
