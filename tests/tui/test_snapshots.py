"""What the screens look like. `pytest --snapshot-update` draws them anew; look at the difference before committing."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from fcd.settings import Settings, TuiSettings
from fcd.wire.admin import Progress, WorkerInfo
from fcd.wire.chats import Attachment, CreateChat, GenerateRequest, PatchChat, Preset
from fcd.wire.devices import DeviceReading
from tests.tui.fake import FakeDaemon, make_app, wait_until
from tests.tui.fake_chats import say_something
from tui.app import FcdApp
from tui.screens.arena import ArenaScreen
from tui.screens.battle import BattleScreen
from tui.screens.chat import ChatScreen
from tui.widgets.chat_list import ChatList

ANSWER = """Because each **int8 row** is scaled back to `bf16` on every matmul:

1. read the scale of the row
2. widen it, and if the explanation of a step is long it hangs below itself
   - nested
3. multiply

| device | tok/s |
|:-------|------:|
| cpu    |  31.4 |
| cuda:0 |   412 |

```python
def load(path: str) -> Model:
    return Model(path, bits=8)  # widen
```

> Memory halves, but time grows.
"""
SIZES = [(80, 24), (120, 40)]
LOOKS = {
    "dark": {"settings": Settings(tui=TuiSettings(theme="dark"))},
    "light": {"settings": Settings(tui=TuiSettings(theme="light"))},
    "ascii": {"settings": Settings(tui=TuiSettings(theme="ansi-dark")), "ascii_only": True},
}


def build(daemon: FakeDaemon, look: str) -> FcdApp:
    ticks = itertools.count()
    return make_app(daemon, now=lambda: 0.0, clock=lambda: next(ticks) * 0.1, **LOOKS[look])


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "TERM", "LC_ALL", "LC_CTYPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "C.UTF-8")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


async def settled(pilot: Pilot[None]) -> ChatScreen:
    app = pilot.app
    assert isinstance(app, FcdApp)
    await wait_until(pilot, lambda: app.link.state == "up")
    screen = app.get_screen_stack("chat")[0]
    assert isinstance(screen, ChatScreen)
    screen.prompt.cursor_blink = False
    return screen


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("size", SIZES)
def test_chat(snap_compare: Callable[..., bool], size: tuple[int, int], look: str) -> None:
    daemon = FakeDaemon()

    async def talk(pilot: Pilot[None]) -> None:
        screen = await settled(pilot)
        screen.prompt.put("Why is my 8-bit model slower on CPU?")
        await pilot.press("enter")
        daemon.say(reasoning_content="The matmul widens each row.")
        daemon.say(ANSWER)
        daemon.end(tokens=118, prompt_tokens=1500)
        await wait_until(pilot, lambda: screen.chat.turns() and not screen.busy)
        await pilot.press("ctrl+end")
        screen.prompt.put("show me the profile\nand one line per layer")
        await pilot.pause()

    assert snap_compare(build(daemon, look), run_before=talk, terminal_size=size)


@pytest.mark.parametrize("look", ["dark", "ascii"])
def test_chat_in_trouble(snap_compare: Callable[..., bool], look: str) -> None:
    daemon = FakeDaemon()

    async def lose(pilot: Pilot[None]) -> None:
        screen = await settled(pilot)
        screen.prompt.put("Hello?")
        await pilot.press("enter")
        daemon.say("Half an ans")
        await wait_until(pilot, lambda: screen.chat.turns() and "Half" in screen.chat.turns()[0].said)
        daemon.go()
        await wait_until(pilot, lambda: not screen.busy and screen.fcd.link.state == "gone")
        await pilot.pause()

    assert snap_compare(build(daemon, look), run_before=lose, terminal_size=(80, 24))


@pytest.mark.parametrize("size", SIZES)
def test_welcome(snap_compare: Callable[..., bool], size: tuple[int, int]) -> None:
    daemon = FakeDaemon()

    async def wait(pilot: Pilot[None]) -> None:
        await settled(pilot)
        await pilot.press(*"/s")

    assert snap_compare(build(daemon, "dark"), run_before=wait, terminal_size=size)


def press(*keys: str) -> Callable[[Pilot[None]], Any]:
    async def act(pilot: Pilot[None]) -> None:
        await settled(pilot)
        await pilot.press(*keys)
        await pilot.pause(0.1)

    return act


@pytest.mark.parametrize("look", ["dark", "ascii"])
@pytest.mark.parametrize("key", ["f1", "ctrl+l", "ctrl+t"])
def test_windows(snap_compare: Callable[..., bool], key: str, look: str) -> None:
    assert snap_compare(build(FakeDaemon(), look), run_before=press(key), terminal_size=(80, 24))


async def three_chats(daemon: FakeDaemon) -> None:
    """Kept, one of them pinned and named."""
    for at, words in enumerate(("How do otters sleep?", "A recipe for bread", "Why is the sky blue?")):
        daemon.chats.now = 60.0 * (at + 1)
        chat = await say_something(daemon, (words, f"{words} That is a long story with rivers in it."))
        if at == 1:
            await daemon.chats.service.patch(chat, PatchChat(title="Bread", pinned=True))


@pytest.mark.parametrize(("size", "look"), [((80, 24), "dark"), ((80, 24), "ascii"), ((120, 40), "dark")])
def test_chats(snap_compare: Callable[..., bool], size: tuple[int, int], look: str) -> None:
    """The list: a window, or beside the chat where there is room."""
    daemon = FakeDaemon()

    async def look_around(pilot: Pilot[None]) -> None:
        await three_chats(daemon)
        await settled(pilot)
        await pilot.press("ctrl+s")
        await wait_until(pilot, lambda: pilot.app.screen.query(ChatList))
        found = pilot.app.screen.query_one(ChatList)
        found.query_one(Input).cursor_blink = False
        # Which row is marked in what is found depends on which was before.
        await wait_until(pilot, lambda: len(found.rows) == 3 and found.highlighted() is not None)
        await pilot.press(*"rivers")
        # The pinned one is first in the list, and not in what is found.
        await wait_until(pilot, lambda: found.words == "rivers" and found.rows and found.rows[0].title != "Bread")
        await pilot.pause(1.0)

    assert snap_compare(build(daemon, look), run_before=look_around, terminal_size=size)


@pytest.mark.parametrize("size", SIZES)
def test_branches(snap_compare: Callable[..., bool], size: tuple[int, int]) -> None:
    """Variants and branches say which of how many they are; an interrupted answer says so, and files stand below."""
    daemon = FakeDaemon()

    async def branch(pilot: Pilot[None]) -> None:
        screen = await settled(pilot)
        service = daemon.chats.service
        info = await service.create(CreateChat("guide"))
        for prompt in ("Which rivers have otters?", "Which rivers have the most otters?"):
            notes = [Attachment("rivers.txt", data="Tay, Tweed", size=10)]
            made = await service.generate(info.id, GenerateRequest(prompt, notes, ""))
            daemon.say("The Tay.")
            daemon.end(tokens=12, prompt_tokens=40)
            await wait_until(pilot, lambda: not service._live)
        await service.generate(info.id, GenerateRequest(again=made.question.id))
        daemon.say("The Tweed, by")
        await wait_until(pilot, lambda: "Tweed" in next(iter(service._live.values())).message.content)
        daemon.chats.kill()
        await wait_until(pilot, lambda: not service._live)
        await screen.open_chat(info.id)
        screen.attachments = [Attachment("more.txt", data="x", size=2048)]
        screen._show_attached()
        await pilot.press("tab")
        await pilot.pause(0.2)

    assert snap_compare(build(daemon, "dark"), run_before=branch, terminal_size=size)


@pytest.mark.parametrize("look", ["dark", "ascii"])
def test_presets(snap_compare: Callable[..., bool], look: str) -> None:
    daemon = FakeDaemon()

    async def choose(pilot: Pilot[None]) -> None:
        screen = await settled(pilot)
        await daemon.chats.service.put_preset("terse", Preset("Be terse.", {"temperature": 0.1}))
        await pilot.press("ctrl+t")
        await wait_until(pilot, lambda: pilot.app.screen is not screen)
        await pilot.press("ctrl+o")
        await wait_until(pilot, lambda: len(pilot.app.screen_stack) == 3)
        pilot.app.screen.query_one(Input).cursor_blink = False
        await pilot.pause(0.2)

    assert snap_compare(build(daemon, look), run_before=choose, terminal_size=(80, 24))


def test_attach(snap_compare: Callable[..., bool]) -> None:
    async def ask(pilot: Pilot[None]) -> None:
        screen = await settled(pilot)
        await pilot.press("ctrl+o")
        await wait_until(pilot, lambda: pilot.app.screen is not screen)
        pilot.app.screen.query_one(Input).cursor_blink = False
        await pilot.pause(0.1)

    assert snap_compare(build(FakeDaemon(), "dark"), run_before=ask, terminal_size=(80, 24))


def workers() -> FakeDaemon:
    daemon = FakeDaemon()
    daemon.known += [
        WorkerInfo("qwen-0", ["Qwen/Qwen3-0.6B"], "loading", device="cuda:0",
                   progress=Progress("loading weights", 2, 3, "shards")),
        WorkerInfo("bad-0", ["bad"], "failed", error="Out of memory: it needs 14 GiB, 8 are free."),
        WorkerInfo("gpu-box", ["vicuna-7b"], "ready", local=False, address="http://gpu-box:21002", device="cuda:1",
                   quantization="8bit", running=3, waiting=2, tokens_per_second=412.3, ttft_ms=190,
                   memory_bytes=8_600_000_000),
    ]  # fmt: skip
    gib = 2**30
    daemon.readings = [
        DeviceReading("GPU-1", "gpu", "NVIDIA H100", 80 * gib, 71 * gib, 8 * gib, 0.71, 64.0, 210.0),
        DeviceReading("cpu", "cpu", "AMD EPYC", 32 * gib, 20 * gib, gib, 0.33),
    ]
    daemon.logs["bad-0"] = [
        "2026-01-02 10:00:00 info    fcd.worker: loading bad",
        "2026-01-02 10:00:01 error   fcd.worker: Out of memory",
    ]
    daemon.logs[""] = [
        f"2026-01-02 10:00:{number:02d} {'error  ' if number % 9 == 8 else 'info   '} fcd.http: request {number}"
        for number in range(40)
    ]
    return daemon


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("size", SIZES)
def test_workers(snap_compare: Callable[..., bool], size: tuple[int, int], look: str) -> None:
    async def look_around(pilot: Pilot[None]) -> None:
        await settled(pilot)
        await pilot.press("f5")
        await wait_until(pilot, lambda: "Out of memory" in str(pilot.app.screen.query_one("#tail").visual))  # type: ignore[attr-defined]

    assert snap_compare(build(workers(), look), run_before=look_around, terminal_size=size)


@pytest.mark.parametrize("look", ["dark", "ascii"])
def test_logs(snap_compare: Callable[..., bool], look: str) -> None:
    async def read(pilot: Pilot[None]) -> None:
        await settled(pilot)
        await pilot.press("f6")
        await wait_until(pilot, lambda: "40 of 40" in str(pilot.app.screen.query_one("#log-state").visual))  # type: ignore[attr-defined]
        await pilot.press("e")
        await pilot.pause()

    assert snap_compare(build(workers(), look), run_before=read, terminal_size=(80, 24))


async def fight(pilot: Pilot[None], daemon: FakeDaemon) -> BattleScreen:
    """A battle whose two answers are being written."""
    await settled(pilot)
    await pilot.press("f3")
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, BattleScreen))
    screen = pilot.app.screen
    assert isinstance(screen, BattleScreen)
    screen.prompt.cursor_blink = False
    screen.prompt.put("Explain KV-cache paging to a web developer.")
    await pilot.press("enter")
    await wait_until(pilot, lambda: daemon.arena.calls)
    daemon.arena.write("a", "Think of a browser tab that keeps every DOM node it ever made.\n\n1. blocks\n2. pages\n")
    daemon.arena.write("b", "## Paging, by analogy\n\n- **Page**: 16 tokens\n- **Free list**: blocks nobody owns")
    await wait_until(pilot, lambda: screen.battle.can_vote and "nobody" in screen.battle.info.turns[0].b.text)  # type: ignore[union-attr]
    return screen


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("size", SIZES)
def test_battle(snap_compare: Callable[..., bool], size: tuple[int, int], look: str) -> None:
    daemon = FakeDaemon()

    async def watch(pilot: Pilot[None]) -> None:
        screen = await fight(pilot, daemon)
        daemon.arena.done()
        await wait_until(pilot, lambda: screen.focused is screen.bar)
        await pilot.pause(0.1)

    app = make_app(daemon, now=lambda: 0.0, clock=lambda: 0.0, **LOOKS[look])
    assert snap_compare(app, run_before=watch, terminal_size=size)


@pytest.mark.parametrize(("size", "look"), [((80, 24), "ascii"), ((120, 40), "dark")])
def test_battle_told(snap_compare: Callable[..., bool], size: tuple[int, int], look: str) -> None:
    daemon = FakeDaemon()

    async def vote(pilot: Pilot[None]) -> None:
        screen = await fight(pilot, daemon)
        await pilot.press("left")
        await wait_until(pilot, lambda: screen.battle.phase == "voted")
        await pilot.press("r")
        await wait_until(pilot, lambda: screen.battle.phase == "final" and not screen.busy)
        await pilot.pause(0.1)

    app = make_app(daemon, now=lambda: 0.0, clock=lambda: 0.0, **LOOKS[look])
    assert snap_compare(app, run_before=vote, terminal_size=size)


def at_arena(*keys: str) -> Callable[[Pilot[None]], Any]:
    async def act(pilot: Pilot[None]) -> None:
        await settled(pilot)
        await pilot.press("f4")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ArenaScreen) and pilot.app.screen.board)
        await pilot.press(*keys)
        if "f" in keys:
            await wait_until(pilot, lambda: isinstance(pilot.app.screen.focused, Input))
        await pilot.pause(0.1)

    return act


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("size", SIZES)
def test_arena(snap_compare: Callable[..., bool], size: tuple[int, int], look: str) -> None:
    assert snap_compare(build(FakeDaemon(), look), run_before=at_arena(), terminal_size=size)


@pytest.mark.parametrize(("keys", "look"), [(["h"], "dark"), (["h"], "ascii"), (["v"], "dark"), (["f"], "dark")])
def test_arena_views(snap_compare: Callable[..., bool], keys: list[str], look: str) -> None:
    assert snap_compare(build(FakeDaemon(), look), run_before=at_arena(*keys), terminal_size=(80, 24))
