"""A list of things that are kept: one is taken, any may be removed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from textual import work
from textual.binding import Binding
from textual.content import Content
from textual.widgets import Input, OptionList

from fcd.errors import FcdError
from tui.widgets.pickers import Picker

Rows = Sequence[tuple[str, Content]]


class Shelf(Picker):
    """Gives the id of what was taken, or None. Removing leaves it open, while there is something to show."""

    BINDINGS = [Binding("delete", "remove", "remove", priority=True)]

    def __init__(self, title: str, rows: Rows, *, remove: Callable[[str], Awaitable[Rows]], hint: str) -> None:
        """
        Args:
            title: stands on top.
            rows: id and what is shown.
            remove: removes one and gives what is left. May raise FcdError, which is told.
            hint: the line below.
        """
        super().__init__(title, rows, hint=hint)
        self._remove = remove

    @work(exclusive=True, group="remove")
    async def action_remove(self) -> None:
        options = self.query_one(OptionList)
        if options.highlighted is None:
            return
        chosen = options.get_option_at_index(options.highlighted).id
        assert chosen is not None
        try:
            self.put(await self._remove(chosen))
        except FcdError as error:
            self.notify(error.message, severity="error", markup=False)

    def put(self, rows: Rows) -> None:
        """Other rows; the highlight stays at its place."""
        if not self.is_current or [name for name, _ in rows] == [name for name, _ in self._options]:
            return
        if not rows:
            self.dismiss(None)
            return
        options = self.query_one(OptionList)
        at = options.highlighted or 0
        self._options = rows
        self._fill(self.query_one(Input).value)
        if options.option_count:
            options.highlighted = min(at, options.option_count - 1)
