"""The Workers screen: who runs what, how fast, and the keys to change it."""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING, cast

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.content import Content
from textual.screen import Screen
from textual.widgets import DataTable, Input, Static

from fcd.errors import FcdError
from fcd.wire.admin import Progress, WorkerInfo
from tui import formats
from tui.actions import BY_ID, bindings
from tui.devices import device_rows
from tui.eta import Eta
from tui.glyphs import sparkline
from tui.screens.worker_actions import WorkerActions
from tui.widgets.chrome import Banner, Header, KeyBar
from tui.widgets.download_dialog import download_words
from tui.worker_rows import COLUMNS, SORTS, STATES, cells, facts, matching, summary

if TYPE_CHECKING:
    from fcd.wire.downloads import Download
    from tui.app import FcdApp

_POLL_S = 1.0
_HISTORY = 60
_LOADS = 6
"""Rows of what is being loaded."""


class WorkersScreen(WorkerActions, Screen[None]):
    """A table, and below it the worker that the cursor is on: its facts, speed over the last minute, and log."""

    CSS_PATH = "workers.tcss"
    BINDINGS = bindings("workers")
    AUTO_FOCUS = "DataTable"

    def __init__(self) -> None:
        super().__init__()
        self._sort = 0
        self._words = ""
        self._speeds: dict[str, deque[float]] = {}
        self.loads: dict[str, str] = {}
        """What is going on, by model or worker, in words."""
        self.failures: dict[str, str] = {}
        """Why models that were asked for here are not loaded."""
        self._downloads: list[Download] = []
        self._eta = Eta()
        self._drawn_devices = -1
        self._log: list[str] = []
        self._log_of = ""
        """Whose log that is: the cursor may be on another worker since."""

    @property
    def fcd(self) -> FcdApp:
        return cast("FcdApp", self.app)

    @property
    def table(self) -> DataTable[Text]:
        return cast("DataTable[Text]", self.query_one(DataTable))

    def compose(self) -> ComposeResult:
        yield Header("workers")
        yield Banner()
        yield Static("", id="warnings", markup=False)
        yield DataTable(cursor_type="row", cell_padding=0, zebra_stripes=False)
        yield Static("", id="none", markup=False)
        yield Static("", id="loads")
        yield Static("", id="devices")
        yield Static("", id="facts")
        yield Static("", id="tail")
        yield Input(placeholder="words to filter by", id="worker-filter", compact=True)
        yield KeyBar("workers")

    def on_mount(self) -> None:
        self.query_one("#worker-filter").display = False
        self._columns()
        self.fcd.link_changed.subscribe(self, lambda _: self.draw())
        self.set_interval(_POLL_S, self._poll)
        self.draw()

    def _columns(self) -> None:
        spare = max(0, self.app.size.width - sum(width + 1 for _, width, _ in COLUMNS) - 1)
        grown = {"NAME": spare // 3, "MODEL": spare // 2}
        self.table.clear(columns=True)
        for title, width, side in COLUMNS:
            room = width + grown.get(title, 0)
            label = f"{title} " if side == "left" else f"{title:>{room}} "
            self.table.add_column(Text(label), width=room + 1, key=title)

    def on_resize(self) -> None:
        self._columns()
        self.draw()

    def _workers(self) -> list[WorkerInfo]:
        found = matching(self.fcd.link.workers.values(), self._words)
        return sorted(found, key=SORTS[self._sort][1])  # type: ignore[arg-type]

    def chosen(self) -> WorkerInfo | None:
        """The worker that the cursor is on."""
        workers = self._workers()
        row = self.table.cursor_row
        return workers[row] if 0 <= row < len(workers) else None

    def draw(self) -> None:
        """Draw all of it from what the link knows."""
        if not self.query(DataTable):
            return  # the interface is being left
        table, workers = self.table, self._workers()
        row = table.cursor_row
        table.clear()
        widths = [column.width - 1 for column in table.ordered_columns]
        for worker in workers:
            table.add_row(*self._row(worker, widths), key=worker.name)
        if workers:
            table.move_cursor(row=min(max(row, 0), len(workers) - 1), animate=False)
        self.query_one(Header).middle(summary(self.fcd.link.workers.values()) or "no workers")
        none = self.query_one("#none", Static)
        none.display = not workers
        none.update(self._why_none())
        self.draw_loads()
        self._draw_devices()
        self._draw_facts()

    def _why_none(self) -> str:
        if self._words:
            return f" No worker matches '{self._words}'."
        if self.fcd.link.state != "up":
            return " Not connected."
        return " No model is loaded." + ("" if self.fcd.readonly else f" {self.fcd.key('load_worker')} loads one.")

    def _row(self, worker: WorkerInfo, widths: list[int]) -> list[Text]:
        row = []
        for (title, _, side), text, width in zip(COLUMNS, cells(worker, self.fcd.glyphs), widths, strict=True):
            fitted = text if len(text) <= width else text[: width - 1] + self.fcd.glyphs.ellipsis[:1]
            padded = f"{fitted:<{width}}" if side == "left" else f"{fitted:>{width}}"
            colour = self.fcd.colour(STATES.get(worker.state, "foreground")) if title == "STATE" else ""
            row.append(Text(padded, colour))
        return row

    def progress_words(self, key: str, progress: Progress) -> str:
        """How far, and how long it will take."""
        words = formats.progress(progress, self.fcd.glyphs, 20)
        left = self._eta.left(key, progress, self.fcd.clock())
        return words if left is None else f"{words}  {formats.seconds(left)} left"

    def draw_loads(self) -> None:
        """What is being loaded, downloaded and tested, and what could not be."""
        workers = self._workers()
        lines: list[tuple[str, str]] = [
            (f" {worker.name}  {self.progress_words(worker.name, worker.progress)}", "$text-warning")
            for worker in workers
            if worker.progress is not None and worker.state in ("starting", "loading")
        ]
        known = {model for worker in workers for model in worker.models}
        lines += [(f" {name}  {words}", "$text-warning") for name, words in self.loads.items() if name not in known]
        for download in self._downloads:
            if download.state != "done":
                words = download.error.split("\n")[0] if download.error else download_words(download, self.fcd.glyphs)
                style = "$text-error" if download.state == "failed" else "$text-warning"
                lines.append((f" {download.repo}  {words.removeprefix(f'{download.repo} ')}", style))
        again = "" if self.fcd.readonly else f"  {self.fcd.key('load_worker')} tries again"
        for model in self.failures.keys() - known:
            lines.append((f" {model} is not loaded: {self.failures[model].splitlines()[0]}{again}", "$text-error"))
        for loads in self.query("#loads").results(Static):  # none any more where the interface is being left
            loads.display = bool(lines)
            loads.update(Content("\n").join(Content.styled(line, style) for line, style in lines[:_LOADS]))

    def _draw_devices(self) -> None:
        """The strip of devices, and what the daemon says is wrong."""
        link = self.fcd.link
        self._drawn_devices = link.devices.count
        strip = self.query_one("#devices", Static)
        most = 3 if self.size.height < 30 else 9
        rows = device_rows(link.devices, self.fcd.glyphs, self.size.width, most) if link.state == "up" else []
        strip.display = bool(rows)
        strip.update(Content("\n").join(rows))
        warnings = self.query_one("#warnings", Static)
        warnings.display = bool(link.warnings) and link.state == "up"
        warnings.update("\n".join(f" {line}" for line in link.warnings))

    @on(DataTable.RowHighlighted)
    def _draw_facts(self) -> None:
        worker = self.chosen()
        box = self.query_one("#facts", Static)
        box.display = worker is not None
        self.query_one("#tail").display = worker is not None
        if worker is None:
            return
        glyphs = self.fcd.glyphs
        parts: list[tuple[str, str] | str] = [(f" {worker.name} ", "bold"), (facts(worker, glyphs, self.fcd.now()), "")]
        speeds = self._speeds.get(worker.name)
        if speeds and max(speeds) > 0:
            parts.append((f"\n tok/s {sparkline(list(speeds), glyphs)} {formats.rate(speeds[-1])}", "$text-accent"))
        if worker.error:
            parts.append((f"\n {worker.error}", "$text-error"))
            parts += self._mending()
        box.update(Content.assemble(*parts))
        tail = self.query_one("#tail", Static)
        log = self._log if self._log_of == worker.name else []
        tail.update(Content("\n".join(f" {line}" for line in log[-max(1, tail.size.height) :])))

    def _mending(self) -> list[tuple[str, str]]:
        """The keys that help with a worker that failed."""
        actions = [("worker_log", "its log")]
        if not self.fcd.readonly:
            actions = [("restart_worker", "start it again"), *actions, ("load_worker", "load another")]
        return [
            part
            for number, (action, words) in enumerate(actions)
            for part in (("\n " if number == 0 else "   ", ""), (self.fcd.key(action), "bold $text-accent"),
                         (f" {words}", "$foreground 70%"))
        ]  # fmt: skip

    @work(exclusive=True, group="poll")
    async def _poll(self) -> None:
        """Speeds change without an event; read them while somebody looks."""
        for name, known in self.fcd.link.workers.items():
            self._speeds.setdefault(name, deque(maxlen=_HISTORY)).append(known.tokens_per_second)
        if not self.is_current or self.fcd.link.state != "up":
            return
        if self._drawn_devices != self.fcd.link.devices.count:
            self._draw_devices()
        try:
            await self.fcd.link.refresh()
            self._downloads = await self.fcd.link.connected().downloads()
            self.draw_loads()
        except FcdError:
            self._log = []
        await self._read_log()

    @on(DataTable.RowHighlighted)
    @work(exclusive=True, group="log")
    async def _look_at_log(self) -> None:
        """The cursor is on another worker."""
        worker = self.chosen()
        if worker is not None and worker.name != self._log_of:
            await self._read_log()

    async def _read_log(self) -> None:
        worker = self.chosen()
        lines: list[str] = []
        with contextlib.suppress(FcdError):
            lines = await self.fcd.link.connected().worker_log(worker.name, 30) if worker else []
        if self._is_chosen(worker):
            self._log, self._log_of = lines, worker.name if worker else ""
            self._draw_facts()

    def _is_chosen(self, worker: WorkerInfo | None) -> bool:
        """Whether the cursor is where it was when the daemon was asked; the screen may be closed since."""
        if not self.is_mounted:
            return False
        now = self.chosen()
        return (now.name if now else "") == (worker.name if worker else "")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Destructive actions are not there when the interface is only to read."""
        known = BY_ID.get(action)
        return not (known is not None and known.destructive and self.fcd.readonly)

    @on(DataTable.RowSelected)
    async def action_worker_log(self) -> None:
        worker = self.chosen()
        if worker is not None:
            await self.fcd.show_log(worker.name)

    def action_filter_workers(self) -> None:
        field = self.query_one("#worker-filter", Input)
        field.display = True
        self.set_focus(field)

    @on(Input.Changed, "#worker-filter")
    def _filter(self, event: Input.Changed) -> None:
        self._words = event.value
        self.draw()

    @on(Input.Submitted, "#worker-filter")
    def _filtered(self) -> None:
        self.set_focus(self.table)

    def key_escape(self) -> None:
        field = self.query_one("#worker-filter", Input)
        field.value = ""
        field.display = False
        self.set_focus(self.table)

    def action_sort_workers(self) -> None:
        self._sort = (self._sort + 1) % len(SORTS)
        self.notify(f"Sorted by {SORTS[self._sort][0]}.", timeout=2, markup=False)
        self.draw()
