"""Loads the conversation's model, says how far that is, and keeps its settings."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from msgspec import UNSET
from textual import work
from textual.content import Content
from textual.widgets import Static

from fcd.errors import FcdError, ModelLoadError
from fcd.wire.chats import PatchChat
from tui.chats import with_settings
from tui.fits import fitting_words
from tui.screens.chat_attach import ChatAttach


class ChatLoading(ChatAttach):
    """The model of the conversation and its other settings."""

    @work(exclusive=True, group="onboard")
    async def onboard(self) -> None:
        """Where only the built-in models are there: say which larger ones would fit."""
        self._onboarded = True
        with contextlib.suppress(FcdError):
            models = await self.fcd.link.connected().models()
            if any(model.source != "builtin" for model in models):
                return
            free, where, widened = await asyncio.to_thread(self.fcd.memory)
            found = self.query(".welcome").results(Static)
            for welcome in found:
                welcome.update(self._welcome_words() + fitting_words(free, where, widened, self.fcd.key("pick_model")))

    @work(exclusive=True, group="preload")
    async def preload(self) -> None:
        """Load the conversation's model before it is asked for, so that the first answer comes soon."""
        model = self.chat.model
        if self.fcd.readonly or not model or model in self.fcd.failed_loads:
            return
        try:
            name = await self._load(model)
        except FcdError as error:
            self.fcd.failed_loads.add(model)
            self.notify(error.message, severity="error", markup=False)
            return
        if name != model and self.chat.model == model:
            await self.change(model=name)  # a folder's name among the models

    async def _load(self, model: str) -> str:
        """Load a model, saying how far it is; the name that requests use."""
        worker = self.fcd.link.worker_for(model)
        if self.fcd.readonly or (worker is not None and worker.state == "ready"):
            return model
        self._say_loading(model)
        try:
            async for event in self.fcd.load(model):
                if event.type == "error":
                    raise ModelLoadError(event.error or f"{model} could not be loaded.")
                if event.progress is not None:
                    self._say_loading(f"{model}: {self.fcd.describe(event.progress)}")
                if event.type == "ready":
                    self.fcd.failed_loads.discard(model)
                    return event.model or model
        finally:
            self._say_loading("")
        raise ModelLoadError(f"The daemon stopped loading {model} without a word.")

    def _say_loading(self, words: str) -> None:
        self._loading = words
        running = self.chat.running
        view = self.transcript.view_of(running.id) if running is not None else None
        if view is not None and running is not None and not running.content:
            view.answer.notice(Content.styled(f"loading {words}", "$foreground 60%") if words else None)
        self._draw_note()

    async def change(self, **changes: Any) -> None:
        """Other settings: at once here, and in the daemon."""
        self.chat.info = with_settings(self.chat.info, **changes)
        self.meter.show_params(self.chat.params)
        self.link_changed()
        if self.chat.id:
            try:
                patch = {name: changes.get(name, UNSET) for name in ("model", "system", "params")}
                await self.fcd.link.connected().patch_chat(self.chat.id, PatchChat(**patch))
            except FcdError as error:
                self.notify(f"The change is not kept. {error.message}", severity="error", markup=False)
