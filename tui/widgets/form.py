"""What windows with several fields share."""

from __future__ import annotations

import asyncio

from textual.binding import Binding
from textual.screen import ModalScreen, ScreenResultType

_TYPED_WITHIN_S = 1.0


class Form(ModalScreen[ScreenResultType]):
    """Focus moves before the next key is handed out: text that comes in one burst with a tab goes where it belongs."""

    # Textual's own bindings for these wait until the field that has the focus has seen the key and let it pass.
    BINDINGS = [
        Binding("tab", "app.focus_next", "next", show=False, priority=True),
        Binding("shift+tab", "app.focus_previous", "previous", show=False, priority=True),
    ]

    async def typed(self) -> bool:
        """Wait until every field has taken in what was typed so far: each deals with its keys by itself. False where
        the window was left meanwhile."""
        fields = {widget: asyncio.Event() for widget in self.focus_chain}
        told = [seen.wait() for widget, seen in fields.items() if widget.call_later(seen.set)]
        if told:
            _, late = await asyncio.wait([asyncio.ensure_future(each) for each in told], timeout=_TYPED_WITHIN_S)
            for each in late:
                each.cancel()
        return self.is_current
