"""The Arena screen: who is better, how sure that is, who beats whom, and the votes behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.containers import ScrollableContainer
from textual.content import Content
from textual.screen import Screen
from textual.widgets import DataTable, Static

from fcd.errors import FcdError
from fcd.wire.arena import HeadToHead, Leaderboard, VoteList
from tui import board as text
from tui.actions import BY_ID, bindings
from tui.board_rows import board_columns, board_row, heat_map, vote_columns, vote_row
from tui.screens.arena_actions import ArenaActions
from tui.widgets.chrome import Banner, Header, KeyBar

if TYPE_CHECKING:
    from tui.app import FcdApp

_POLL_S = 5.0
"""Votes become final by themselves, of which no event tells."""
_VOTES = 200
_METHODS = {"bradley_terry": "Bradley-Terry", "elo": "Elo"}


class ArenaScreen(ArenaActions, Screen[None]):
    """Reads the board when votes change, and draws it."""

    CSS_PATH = "arena.tcss"
    BINDINGS = bindings("arena")
    AUTO_FOCUS = "#board"

    def __init__(self) -> None:
        super().__init__()
        self.view: Literal["board", "heat", "votes"] = "board"
        self.heat_kind = 0
        self.typed: dict[str, str] = {}
        """Filters as they were written."""
        self.board: Leaderboard | None = None
        self.heads: HeadToHead | None = None
        self.votes: VoteList | None = None
        self._trouble = ""
        self._seen = -1

    @property
    def fcd(self) -> FcdApp:
        return cast("FcdApp", self.app)

    def table(self, name: str) -> DataTable[Text]:
        return cast("DataTable[Text]", self.query_one(f"#{name}", DataTable))

    def compose(self) -> ComposeResult:
        yield Header("arena")
        yield Banner()
        yield Static("", id="arena-filter", markup=False)
        yield DataTable(id="board", cursor_type="row", cell_padding=0)
        with ScrollableContainer(id="heat"):
            yield Static("", id="heat-map")
        yield DataTable(id="vote-list", cursor_type="row", cell_padding=0)
        yield Static("", id="arena-none", markup=False)
        yield Static("", id="arena-detail")
        yield KeyBar("arena")

    def on_mount(self) -> None:
        self.fcd.link_changed.subscribe(self, lambda _: self._changed())
        self.set_interval(_POLL_S, self._poll)
        self.draw()
        self.read()

    def on_screen_resume(self) -> None:
        self.read()

    def on_resize(self) -> None:
        self.draw()

    def _changed(self) -> None:
        if self.is_current and (self.fcd.link.votes_seen != self._seen or self._trouble):
            self.read()

    def _poll(self) -> None:
        if self.is_current:
            self.read()

    @work(exclusive=True, group="read")
    async def read(self) -> None:
        """Read what is shown, and draw it where it changed."""
        self._seen = self.fcd.link.votes_seen
        try:
            client = self.fcd.link.connected()
            query = text.make_query(self.typed, self.fcd.now())
            found = await client.leaderboard(query), await client.head_to_head(query)
            votes = await client.votes(query, limit=_VOTES) if self.view == "votes" else self.votes
            trouble = ""
        except FcdError as error:
            found, votes, trouble = (self.board, self.heads), self.votes, str(error)  # type: ignore[assignment]
        if (*found, votes, trouble) != (self.board, self.heads, self.votes, self._trouble):
            (self.board, self.heads), self.votes, self._trouble = found, votes, trouble
            self.draw()

    def draw(self) -> None:
        """All of it, from what was read last."""
        rows = self.board.rows if self.board else []
        for name, shown in (("board", self.view == "board"), ("heat", self.view == "heat"),
                            ("vote-list", self.view == "votes")):  # fmt: skip
            self.query_one(f"#{name}").display = shown and bool(rows or name == "vote-list")
        none = self.query_one("#arena-none", Static)
        none.update(self._why_none())
        none.display = bool(str(none.content))
        if self.view == "board":
            self._draw_board()
        elif self.view == "heat":
            self._draw_heat()
        else:
            self._draw_votes()
        filters = text.describe(self.typed, self.fcd.glyphs)
        line = self.query_one("#arena-filter", Static)
        line.display = bool(filters)
        line.update(f" {filters}" + (f"   ({self.board.left_out} votes left out)" if self.board else ""))
        self.query_one(Header).middle(self._summary())
        self._draw_detail()

    def _summary(self) -> str:
        if self.board is None:
            return ""
        votes, models = self.board.votes, len(self.board.rows)
        parts = [f"{votes} vote{'s' * (votes != 1)}", f"{models} model{'s' * (models != 1)}"]
        parts += [_METHODS[self.board.method]] if self.size.width >= 100 else []
        if self.view == "heat":
            parts = [f"{text.HEATS[self.heat_kind]} {'%' if text.HEATS[self.heat_kind] != 'battles' else ''}", *parts]
        return f" {self.fcd.glyphs.separator} ".join(part.strip() for part in parts)

    def _why_none(self) -> str:
        if self._trouble:
            return f" {self._trouble}"
        if self.board is None:
            return " Reading the board" + self.fcd.glyphs.ellipsis
        if self.board.rows or (self.view == "votes" and self.votes and self.votes.votes):
            return ""
        if self.typed:
            return f" No vote passes the filters. {self.fcd.key('filters')} changes them."
        imports = "" if self.fcd.readonly else f" {self.fcd.key('import_votes')} takes in votes from a file."
        return f" There are no votes yet. {self.fcd.key('go_battle')} begins a battle.{imports}"

    def _fill(self, name: str, columns: list[tuple[str, int]], rows: list[list[Text]]) -> None:
        table = self.table(name)
        row = table.cursor_row
        known = [(column.label.plain, column.width) for column in table.ordered_columns]
        if known != columns:
            table.clear(columns=True)
            for label, width in columns:
                table.add_column(Text(label), width=width)
        else:
            table.clear()
        for cells in rows:
            table.add_row(*cells)
        if rows:
            table.move_cursor(row=min(max(row, 0), len(rows) - 1), animate=False)

    def _draw_board(self) -> None:
        rows = self.board.rows if self.board else []
        width = max(60, self.size.width - 3)
        columns = board_columns(width, text.scale(rows))
        colour = self.fcd.colour("text-accent")
        sizes = [size for _, size in columns]
        drawn = [board_row(row, text.scale(rows), sizes, self.fcd.glyphs, colour) for row in rows]
        self._fill("board", columns, drawn)

    def _draw_votes(self) -> None:
        votes = self.votes.votes if self.votes else []
        columns = vote_columns(max(60, self.size.width - 3))
        sizes = [size for _, size in columns]
        self._fill("vote-list", columns, [vote_row(vote, sizes, self.fcd.glyphs) for vote in votes])

    def _draw_heat(self) -> None:
        if self.heads is not None:
            kind = text.HEATS[self.heat_kind]
            self.query_one("#heat-map", Static).update(heat_map(self.heads, kind, self.fcd.glyphs))

    @on(DataTable.RowHighlighted)
    def _draw_detail(self) -> None:
        detail = self.query_one("#arena-detail", Static)
        words = self._detail()
        detail.display = bool(words)
        detail.update(words)

    def _detail(self) -> Content:
        model = self.chosen_model()
        if self.view != "board" or model is None or self.heads is None:
            return Content("")
        lines = [Content.styled(f" {model} head to head", "bold")]
        for other, won, lost, share, predicted in text.opponents(self.heads, model)[:5]:
            rate = f"{share * 100:.0f} %" if share is not None else ""
            words = f" {other:<24.24} won {won:g}, lost {lost:g}   {rate:>5}   predicted {predicted * 100:.0f} %"
            lines.append(Content.styled(words, "$foreground 70%"))
        return Content("\n").join(lines)

    @on(DataTable.RowSelected)
    def _row_selected(self) -> None:
        self.action_open_row()

    def chosen_model(self) -> str | None:
        """The model that the cursor is on."""
        rows = self.board.rows if self.board else []
        at = self.table("board").cursor_row
        return rows[at].model if 0 <= at < len(rows) else None

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        known = BY_ID.get(action)
        return not (known is not None and known.destructive and self.fcd.readonly)
