"""Textual's driver for a session: as Textual has it, and it leaves with the server that started it."""

from __future__ import annotations

import asyncio
import os
import threading

from textual import messages
from textual.drivers.web_driver import WebDriver

_GRACE_S = 5.0


class SessionDriver(WebDriver):
    """Standard input is a pipe from the server: at its end there is nobody to show anything to."""

    _loop: asyncio.AbstractEventLoop

    def start_application_mode(self) -> None:
        self._loop = asyncio.get_running_loop()
        super().start_application_mode()

    def run_input_thread(self) -> None:
        super().run_input_thread()
        if self.exit_event.is_set():
            return
        late = threading.Timer(_GRACE_S, os._exit, (0,))
        late.daemon = True
        late.start()
        self._loop.call_soon_threadsafe(self._app.post_message, messages.ExitApp())
