from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.pilot import Pilot
from textual.widgets import Input

from fcd.errors import ApiError, FcdError
from fcd.wire.admin import DaemonEvent
from fcd.wire.arena import Answer, BattleInfo, BoardRow, Leaderboard, Turn
from tests.tui.fake import FakeDaemon, make_app, wait_until
from tests.tui.fake_arena import BOARD, HEADS
from tui import board as text
from tui.app import FcdApp
from tui.glyphs import ASCII, UNICODE, Glyphs
from tui.screens.arena import ArenaScreen
from tui.widgets.arena_dialogs import LineAction, VoteView

Scene = Callable[[FakeDaemon, FcdApp, ArenaScreen, "Pilot[None]"], Awaitable[None]]


def play(scene: Scene, size: tuple[int, int] = (120, 40), **options: object) -> None:
    async def main() -> None:
        daemon = FakeDaemon()
        app = make_app(daemon, **options)
        async with app.run_test(size=size) as pilot:
            await wait_until(pilot, lambda: app.link.state == "up")
            await pilot.press("f4")
            await wait_until(pilot, lambda: isinstance(app.screen, ArenaScreen) and app.screen.board is not None)
            screen = app.screen
            assert isinstance(screen, ArenaScreen)
            await scene(daemon, app, screen, pilot)

    asyncio.run(main())


def rows(app: FcdApp) -> str:
    return "\n".join("".join(segment.text for segment in strip) for strip in app.screen._compositor.render_strips())


def test_the_board_follows_votes_as_they_come() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ArenaScreen, pilot: Pilot[None]) -> None:
        await wait_until(pilot, lambda: "qwen-7b-awq" in rows(app) and "107 votes" in rows(app))
        await pilot.press("down")
        await wait_until(pilot, lambda: "vicuna-7b head to head" in rows(app))
        more = [msgspec.structs.replace(BOARD.rows[0], model="newcomer"), *BOARD.rows]
        daemon.arena.board = Leaderboard(more, 108, 0, "bradley_terry", "sandwich")
        daemon.tell(DaemonEvent("arena", name="votes"))
        await wait_until(pilot, lambda: "newcomer" in rows(app) and "108 votes" in rows(app))

    play(scene)


def test_heat_map_walks_and_comes_back() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ArenaScreen, pilot: Pilot[None]) -> None:
        await pilot.press("h")
        await wait_until(pilot, lambda: "ties are half" in rows(app) and " 79 " in rows(app))
        await pilot.press("h")
        await wait_until(pilot, lambda: "predicted from" in rows(app) and " 76 " in rows(app))
        await pilot.press("h")
        await wait_until(pilot, lambda: "how many battles" in rows(app) and " 77 " in rows(app))
        await pilot.press("h")
        await wait_until(pilot, lambda: "95% CI" in rows(app))

    play(scene)


def test_filters_are_checked_and_asked_for() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ArenaScreen, pilot: Pilot[None]) -> None:
        await pilot.press("f", *"soon", "enter")
        await wait_until(pilot, lambda: "12h, 7d" in rows(app))
        assert app.screen is not screen
        await pilot.press(*["backspace"] * 4, *"7d", "tab", "tab", *"en", "tab", *"guide, vicuna-7b", "enter")
        await wait_until(pilot, lambda: app.screen is screen and "since 7d" in rows(app))
        await wait_until(pilot, lambda: daemon.arena.queries[-1].language == "en")
        query = daemon.arena.queries[-1]
        assert query.since == 10**9 - 7 * 86400
        assert query.models == ["guide", "vicuna-7b"]

    play(scene, now=lambda: 10**9)


def test_votes_with_both_answers() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ArenaScreen, pilot: Pilot[None]) -> None:
        turn = Turn("Why?", Answer("because", "done"), Answer("dunno", "done"))
        daemon.arena.battle = BattleInfo("b0", "blind", 0.0, [turn], vote="a", final=True, model_a="x", model_b="y")
        await pilot.press("v")
        await wait_until(pilot, lambda: "number 4" in rows(app))
        await pilot.press("enter")
        await wait_until(pilot, lambda: isinstance(app.screen, VoteView))
        await wait_until(pilot, lambda: "because" in rows(app) and "dunno" in rows(app))
        assert "A is better" in rows(app)
        await pilot.press("escape", "escape")
        await wait_until(pilot, lambda: "95% CI" in rows(app))

    play(scene)


def test_export_and_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "votes.jsonl").write_text("{}\n{}\n")

    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ArenaScreen, pilot: Pilot[None]) -> None:
        for again in range(2):
            await pilot.press("e", *"everything", "enter")
            await wait_until(pilot, lambda: "Write to" in rows(app))
            if again:
                await pilot.press("enter")
                await wait_until(pilot, lambda: "is there already; give another name." in rows(app))
                await pilot.press("end", "2", "enter")
            else:
                await pilot.press("enter")
            await wait_until(pilot, lambda: app.screen is screen)
        for name in ("arena-battles.jsonl", "arena-battles.jsonl2"):
            assert (tmp_path / name).read_bytes() == b'{"a": 1}\n{"b": 2}\n'
        await pilot.press("i", *"votes.jsonl", "enter")
        await wait_until(pilot, lambda: any("2 votes added" in note.message for note in app._notifications))
        assert daemon.arena.imported == [b"{}\n{}\n"]
        await wait_until(pilot, lambda: app.screen is screen)

    play(scene)


def test_what_the_daemon_refuses_to_export_or_import_stays_to_be_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "votes.jsonl").write_text("{}\n")
    refused = ApiError(503, "The disk of the daemon is full.", code="storage")

    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ArenaScreen, pilot: Pilot[None]) -> None:
        for keys, typed in ((["e", *"everything", "enter"], "mine.jsonl"), (["i"], "votes.jsonl")):
            daemon.arena.refuse_files = refused
            await pilot.press(*keys)
            await wait_until(pilot, lambda: isinstance(app.screen, LineAction))
            window = app.screen
            window.query_one(Input).value = ""
            await pilot.press(*typed, "enter")
            await wait_until(pilot, lambda: "The disk of the daemon is full." in rows(app))
            assert (app.screen, window.query_one(Input).value) == (window, typed)
            assert not (tmp_path / "mine.jsonl").exists()
            daemon.arena.refuse_files = None
            await pilot.press("enter")
            await wait_until(pilot, lambda: app.screen is screen)
            if typed == "mine.jsonl":
                assert (tmp_path / typed).read_bytes()
                (tmp_path / typed).unlink()
        assert daemon.arena.imported == [b"{}\n"]

    play(scene)


def test_an_export_says_how_far_it_is_and_ends_with_its_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ArenaScreen, pilot: Pilot[None]) -> None:
        daemon.arena.hold_export = asyncio.Event()
        await pilot.press("e", *"everything", "enter")
        await wait_until(pilot, lambda: "Write to" in rows(app))
        await pilot.press("enter")
        await wait_until(pilot, lambda: "written   esc stops it" in rows(app))
        assert (tmp_path / "arena-battles.jsonl").exists()
        await pilot.press("escape")
        await wait_until(pilot, lambda: app.screen is screen)
        await wait_until(pilot, lambda: not (tmp_path / "arena-battles.jsonl").exists())

    play(scene)


def test_empty_and_trouble() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ArenaScreen, pilot: Pilot[None]) -> None:
        daemon.arena.board = Leaderboard([], 0, 0, "bradley_terry", "sandwich")
        daemon.tell(DaemonEvent("arena", name="votes"))
        await wait_until(pilot, lambda: "no votes yet. F3" in rows(app))
        assert "i takes in" not in rows(app)
        assert "import" not in str(screen.query_one("KeyBar").visual)  # type: ignore[attr-defined]
        daemon.arena.refuse = ApiError(500, "The board is broken.")
        daemon.tell(DaemonEvent("arena", name="votes"))
        await wait_until(pilot, lambda: "The board is broken" in rows(app))

    play(scene, readonly=True)


@given(
    st.floats(-500, 3000), st.floats(0, 900), st.floats(0, 900), st.integers(8, 90), st.sampled_from([ASCII, UNICODE])
)
def test_bars_hold_their_rating(rating: float, below: float, above: float, width: int, glyphs: Glyphs) -> None:
    row = BoardRow(1, "m", rating, rating - below, rating + above, 1, 1, 0, 0, 1.0)
    ends = text.scale([row])
    bar = text.interval(row, ends, width, glyphs)
    assert len(bar) == width
    assert bar.count(glyphs.dot) == 1
    assert ends[0] <= row.lower <= row.upper <= ends[1]
    assert len(text.axis(ends, width)) >= min(width, 8)


def test_opponents_and_heat() -> None:
    assert text.opponents(HEADS, "guide")[0] == ("qwen-7b-awq", 4, 15, 0.211, 0.239)
    assert text.opponents(HEADS, "nobody") == []
    assert text.heat(HEADS, "won", 0, 0) == ("", None)
    assert text.heat(HEADS, "won", 2, 0) == ("21", 0.211)


@pytest.mark.parametrize(
    ("name", "typed", "value"),
    [("since", "7d", 1e9 - 7 * 86400), ("named", "yes", True), ("models", "a, b", ["a", "b"]), ("min_tokens", "5", 5)],
)
def test_fields_read_what_is_typed(name: str, typed: str, value: object) -> None:
    assert getattr(text.make_query({name: typed}, 1e9), name) == value


@pytest.mark.parametrize(
    ("name", "typed"), [("since", "soon"), ("named", "perhaps"), ("source", "me"), ("max_tokens", "-1")]
)
def test_fields_refuse_what_they_cannot_read(name: str, typed: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        text.read_field(name, typed, 0.0)


def test_imports_go_in_parts_that_end_at_lines(tmp_path: Path) -> None:
    lines = tmp_path / "a.jsonl"
    lines.write_bytes(b"".join(b'{"n": %d}\n' % number for number in range(100)))
    parts = list(text.parts_of(lines, 64))
    assert b"".join(parts) == lines.read_bytes()
    assert len(parts) > 5
    assert all(part.endswith(b"\n") for part in parts)
    array = tmp_path / "a.json"
    array.write_bytes(b"[1, 2]")
    assert list(text.parts_of(array, 4)) == [b"[1, 2]"]
    array.write_bytes(b"[" + b"1," * 100)
    with pytest.raises(FcdError, match="JSON array"):
        list(text.parts_of(array, 4))
