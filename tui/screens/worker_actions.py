"""What a person does on the Workers screen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

from textual import work
from textual.dom import DOMNode

from fcd.errors import ApiError, FcdError
from fcd.wire.admin import WorkerInfo
from tui import formats
from tui.fits import fitting
from tui.widgets.pickers import Confirm, Picker, model_options

if TYPE_CHECKING:
    from tui.link import DaemonClient
    from tui.screens.workers import WorkersScreen
    from tui.widgets.download_dialog import Ask, Source

_TEST_S = 120.0
_TEST_WORDS = "Say hello in one short sentence."


class WorkerActions(DOMNode):
    """The actions behind the keys of the Workers screen."""

    @property
    def _me(self) -> WorkersScreen:
        return cast("WorkersScreen", self)

    def _refused(self, error: FcdError, title: str = "") -> None:
        self._me.notify(str(error), title=title, severity="error", markup=False)

    @work(exclusive=True, group="picker")
    async def action_load_worker(self) -> None:
        me = self._me
        try:
            models = await me.fcd.link.connected().models()
        except FcdError as error:
            self._refused(error)
            return
        hint = "enter load   esc close   a folder or repo name works too"
        options = model_options(models, "", me.fcd.glyphs)
        chosen = await me.fcd.push_screen_wait(Picker("Load a model", options, hint=hint, free=True))
        if chosen:
            self._load(chosen)

    @work(group="load")
    async def _load(self, model: str) -> None:
        me = self._me
        me.failures.pop(model, None)
        me.loads[model] = "asked for"
        name = model
        try:
            async with aclosing(cast("Any", me.fcd.load(model))) as events:
                async for event in events:
                    if event.model and event.model != name:
                        # A folder's path, or an alias: the table has its worker under this.
                        me.loads[event.model] = me.loads.pop(name, "asked for")
                        me.failures.pop(event.model, None)
                        name = event.model
                    if event.type == "error":
                        me.failures[name] = event.error
                        me.notify(event.error, title=f"{model} is not loaded", severity="error", markup=False)
                    elif event.progress is not None:
                        me.loads[name] = me.progress_words(name, event.progress)
                        me.draw_loads()
        except FcdError as error:
            me.failures[name] = error.message
            self._refused(error, f"{model} is not loaded")
        finally:
            me.loads.pop(name, None)
            me.draw()

    def action_stop_worker(self) -> None:
        async def stop(client: DaemonClient, worker: WorkerInfo) -> None:
            try:
                await client.stop_worker(worker.name)
            except ApiError as error:
                if error.code != "attached":
                    raise
                await client.detach_worker(worker.name)

        self._change("Stop", stop)

    def action_restart_worker(self) -> None:
        self._change("Restart", lambda client, worker: client.restart_worker(worker.name))

    def action_unload_worker(self) -> None:
        self._change("Unload", lambda client, worker: client.unload(worker.models[0]))

    @work(exclusive=True, group="picker")
    async def _change(self, verb: str, call: Callable[[DaemonClient, WorkerInfo], Awaitable[None]]) -> None:
        me = self._me
        worker = me.chosen()
        if worker is None or not worker.models:
            return
        busy = f" It is answering {worker.running} requests." if worker.running else ""
        question = f"{verb} {worker.name} ({', '.join(worker.models)})?{busy}"
        if not await me.fcd.push_screen_wait(Confirm(question, verb.lower())):
            return
        try:
            await call(me.fcd.link.connected(), worker)
            await me.fcd.link.refresh()
        except FcdError as error:
            self._refused(error)
        me.draw()

    @work(exclusive=True, group="test")
    async def action_test_worker(self) -> None:
        """One short answer, as `fcd ping` asks for it."""
        me = self._me
        worker = me.chosen()
        if worker is None or not worker.models:
            return
        me.loads[worker.name] = "asked for a short answer"
        me.draw_loads()
        begun = time.monotonic()
        try:
            async with asyncio.timeout(_TEST_S):
                text = await self._answer(worker.models[0])
        except TimeoutError:
            me.notify(f"{worker.name} gave no answer within {_TEST_S:.0f} s.", severity="error", markup=False)
        except FcdError as error:
            self._refused(error, f"{worker.name} does not answer")
        else:
            took = formats.seconds(time.monotonic() - begun)
            words = f"'{text}'" if text else "with nothing"
            me.notify(f"{worker.models[0]} answered in {took}: {words}", timeout=6, markup=False)
        finally:
            me.loads.pop(worker.name, None)
            me.draw_loads()

    async def _answer(self, model: str) -> str:
        body = {"model": model, "messages": [{"role": "user", "content": _TEST_WORDS}], "max_tokens": 16}
        text = ""
        async with aclosing(cast("Any", self._me.fcd.link.connected().chat({**body, "temperature": 0}))) as chunks:
            async for chunk in chunks:
                for choice in chunk.get("choices", ()):
                    text += choice.get("delta", {}).get("content") or ""
        return " ".join(text.split())[:80]

    @work(exclusive=True, group="picker")
    async def action_attach_worker(self) -> None:
        from tui.widgets.attach_dialog import AttachDialog

        me = self._me
        request = await me.fcd.push_screen_wait(AttachDialog())
        if request is None:
            return
        try:
            worker = await me.fcd.link.connected().attach_worker(request)
            await me.fcd.link.refresh()
        except FcdError as error:
            self._refused(error, "Not attached")
            return
        me.notify(f"{worker.name} brings {', '.join(worker.models)}.", markup=False)
        me.draw()

    @work(exclusive=True, group="picker")
    async def action_downloads(self) -> None:
        from tui.widgets.download_dialog import DownloadDialog

        me = self._me
        try:
            models = await me.fcd.link.connected().models()
        except FcdError as error:
            self._refused(error)
            return
        free, where, widened = await asyncio.to_thread(me.fcd.memory)
        fits = fitting(free, widened)
        words = f"{formats.size(free)} of {where} are free." if fits else f"{formats.size(free)} of {where}: little."
        here = frozenset(model.name for model in models)
        await me.fcd.push_screen_wait(DownloadDialog(self._asker(), me.fcd.glyphs, fits, words, here))

    def _asker(self) -> Ask:
        async def ask(call: Callable[[Source], Awaitable[object]]) -> object:
            try:
                return await call(self._me.fcd.link.connected())
            except FcdError as error:
                self._refused(error)
                return None

        return ask
