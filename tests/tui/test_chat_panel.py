from __future__ import annotations

from textual import events
from textual.pilot import Pilot
from textual.widgets import OptionList, Static

from fcd.settings import ModelSettings, Settings
from fcd.wire.chats import Preset
from tests.tui.chat_scene import ask, play
from tests.tui.fake import FakeDaemon, wait_until
from tui.app import FcdApp
from tui.screens.chat import ChatScreen
from tui.widgets.pickers import Panel
from tui.widgets.shelf import Shelf


def burst(app: FcdApp, *keys: str) -> None:
    """Keys as a paste brings them: all there before the first is dealt with."""
    for key in keys:
        app.post_message(events.Key(_NAMES.get(key, key), key if len(key) == 1 else None))


_NAMES = {" ": "space", ".": "full_stop"}


def test_panel_sets_parameters_and_refuses_nonsense() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+t")
        await wait_until(pilot, lambda: app.screen is not screen)
        await pilot.press(*"Be kind.", "tab", *"warm", "enter")
        await pilot.pause()
        assert app.screen is not screen
        await pilot.press(*["backspace"] * 4, *"0.5", "enter")
        await wait_until(pilot, lambda: app.screen is screen and screen.chat.system == "Be kind.")
        assert screen.chat.params == {"temperature": 0.5}

    play(scene)


def test_the_panel_says_what_is_wrong_with_a_field_that_it_goes_to() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+t")
        await wait_until(pilot, lambda: isinstance(app.screen, Panel))
        words = app.screen.query_one("#param-help", Static)
        await pilot.press("tab", *"nan", "tab", "enter")
        await wait_until(pilot, lambda: app.focused is not None and app.focused.id == "param-temperature")
        await pilot.pause()
        assert "temperature must be within 0 to 2" in str(words.visual)
        await pilot.press("tab", "shift+tab")
        await wait_until(pilot, lambda: str(words.visual).startswith("0 to 2"))

    play(scene)


def test_what_arrives_in_one_burst_with_a_tab_goes_into_the_next_field() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+t")
        await wait_until(pilot, lambda: isinstance(app.screen, Panel))
        burst(app, *"Be kind.", "tab", *"0.5", "tab", *"0.9", "shift+tab", *"1.0", "ctrl+t")
        await wait_until(pilot, lambda: app.screen is screen and screen.chat.system == "Be kind.")
        assert screen.chat.params == {"temperature": 1.0, "top_p": 0.9}

    play(scene)


def test_presets_are_kept_by_the_daemon_and_taken() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+t")
        await wait_until(pilot, lambda: app.screen is not screen)
        panel = app.screen
        await pilot.press(*"Be terse.", "tab", *"0.1", "ctrl+e")
        await wait_until(pilot, lambda: app.screen is not panel)
        await pilot.press(*"dry", "enter")
        await wait_until(pilot, lambda: app.screen is panel)
        await pilot.press("escape")
        await wait_until(pilot, lambda: app.screen is screen)
        assert [preset.name for preset in await daemon.chats.service.presets()] == ["dry"]
        await ask(screen, pilot, "/preset dry")
        await wait_until(pilot, lambda: screen.chat.system == "Be terse.")
        assert screen.chat.params == {"temperature": 0.1}
        await ask(screen, pilot, "/system Something else.")
        await pilot.press("ctrl+t")
        await wait_until(pilot, lambda: app.screen is not screen)
        panel = app.screen
        await pilot.press("ctrl+o")
        await wait_until(pilot, lambda: app.screen is not panel and app.screen is not screen)
        await pilot.press("enter")
        await wait_until(pilot, lambda: app.screen is panel)
        await pilot.press("ctrl+t")
        await wait_until(pilot, lambda: app.screen is screen and screen.chat.system == "Be terse.")

    play(scene)


def test_an_empty_preset_is_refused() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+t")
        await wait_until(pilot, lambda: app.screen is not screen)
        panel = app.screen
        await pilot.press("space", "ctrl+e")
        await wait_until(pilot, lambda: "nothing here to keep" in str(panel.query_one("#param-help", Static).visual))
        assert app.screen is panel
        await pilot.press("tab", *"0.5", "ctrl+e")
        await wait_until(pilot, lambda: app.screen is not panel)
        await pilot.press(*"warm", "enter")
        await wait_until(pilot, lambda: app.screen is panel)
        (preset,) = await daemon.chats.service.presets()
        assert (preset.system, preset.params) == ("", {"temperature": 0.5})

    play(scene)


def test_presets_are_removed_and_profiles_of_the_config_are_taken() -> None:
    profile = ModelSettings(path="somewhere", system="You are a pirate.", temperature=1.2, stop=["Arr"])
    settings = Settings(models={"pirate": profile, "plain": ModelSettings(path="elsewhere")})

    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        for name in ("dry", "wet"):
            await daemon.chats.service.put_preset(name, Preset(name, {"temperature": 0.1}))
        await ask(screen, pilot, "/preset")
        await wait_until(pilot, lambda: isinstance(app.screen, Shelf))
        options = app.screen.query_one(OptionList)
        assert options.option_count == 3
        await pilot.press("delete")
        await wait_until(pilot, lambda: options.option_count == 2)
        assert [preset.name for preset in await daemon.chats.service.presets()] == ["wet"]
        await pilot.press("down", "delete")
        await wait_until(pilot, lambda: any("stands in config.toml" in note.message for note in app._notifications))
        await pilot.press("enter")
        await wait_until(pilot, lambda: screen.chat.system == "You are a pirate.")
        assert screen.chat.params == {"temperature": 1.2, "stop": ["Arr"]}
        await ask(screen, pilot, "/preset wet")
        await wait_until(pilot, lambda: screen.chat.system == "wet")
        await ask(screen, pilot, "/preset Pirate")
        await wait_until(pilot, lambda: screen.chat.system == "You are a pirate.")

    play(scene, settings=settings)
