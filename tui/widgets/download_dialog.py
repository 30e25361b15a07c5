"""Models on their way here, and those that would fit this machine: begin, pause, go on, cancel."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Label, OptionList, Static
from textual.widgets.option_list import Option

from fcd.wire.downloads import Download, DownloadRequest
from tui import formats
from tui.glyphs import Glyphs, bar

_BAR = 14
_POLL_S = 0.5
Ask = Callable[[Callable[["Source"], Awaitable[object]]], Awaitable[object]]
"""Calls the daemon, and tells a person what it refuses."""


class Source(Protocol):
    """The part of the daemon's client that this needs."""

    async def downloads(self) -> list[Download]: ...
    async def download(self, request: DownloadRequest) -> Download: ...
    async def pause_download(self, repo: str) -> None: ...
    async def cancel_download(self, repo: str) -> None: ...


class DownloadDialog(ModalScreen[None]):
    """Downloads go on in the daemon when this is closed."""

    BINDINGS = [
        Binding("escape", "dismiss(None)", "close"),
        Binding("down", "move(1)", priority=True),
        Binding("up", "move(-1)", priority=True),
        Binding("ctrl+x", "cancel_download", "cancel", priority=True),
    ]

    def __init__(
        self, ask: Ask, glyphs: Glyphs, fits: Sequence[tuple[str, float]], where: str, here: frozenset[str]
    ) -> None:
        """
        Args:
            ask: how the daemon is called.
            glyphs: what is drawn.
            fits: repos that fit this machine, with the bytes of their weights.
            where: which memory they fit in, in words.
            here: repos that are on this machine already.
        """
        super().__init__()
        self._ask = ask
        self._glyphs = glyphs
        self._fits = fits
        self._where = where
        self._here = here
        self.known: dict[str, Download] = {}

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Label("Download models", classes="dialog-title")
            yield Input(placeholder="owner/name on the Hugging Face hub, or choose below", compact=True)
            yield OptionList(compact=True)
            yield Static(self._where, classes="dialog-hint", markup=False)
            yield Static("enter begin, pause, go on   ^x cancel, remove what came   esc close",
                         classes="dialog-hint", markup=False)  # fmt: skip

    async def on_mount(self) -> None:
        self.query_one(Input).focus()
        self.set_interval(_POLL_S, self.read)
        await self.read()

    async def read(self) -> None:
        """Ask how far the downloads are."""
        found = await self._ask(lambda client: client.downloads())
        if isinstance(found, list):
            self.known = {download.repo: download for download in found}
        self._fill()

    def _fill(self) -> None:
        words = self.query_one(Input).value.lower().split()
        rows = {repo: download_row(download, self._glyphs) for repo, download in self.known.items()}
        for repo, size in self._fits:
            rows.setdefault(repo, self._offer(repo, size))
        wanted = {repo: row for repo, row in rows.items() if all(word in repo.lower() for word in words)}
        options = self.query_one(OptionList)
        if [option.id for option in options.options] == list(wanted):
            for repo, row in wanted.items():
                options.replace_option_prompt(repo, row)
            return
        chosen = self.chosen
        options.clear_options()
        options.add_options([Option(row, id=repo) for repo, row in wanted.items()])
        if wanted:
            options.highlighted = list(wanted).index(chosen) if chosen in wanted else 0

    def _offer(self, repo: str, size: float) -> Content:
        words = "is here" if repo in self._here else f"{formats.size(size)}, fits"
        return Content.assemble((f"  {repo:<40} ", ""), (words, "$foreground 60%"))

    @property
    def chosen(self) -> str:
        """The repo that the cursor is on; what was typed where nothing matches."""
        options = self.query_one(OptionList)
        if options.highlighted is not None and options.option_count:
            return options.get_option_at_index(options.highlighted).id or ""
        return self.query_one(Input).value.strip()

    @on(Input.Changed)
    def _typed(self) -> None:
        self._fill()

    @on(OptionList.OptionSelected)
    @on(Input.Submitted)
    async def _act(self) -> None:
        repo = self.chosen
        if not repo:
            return
        known = self.known.get(repo)
        if known is not None and known.state == "downloading":
            await self._ask(lambda client: client.pause_download(repo))
        else:
            begun = await self._ask(lambda client: client.download(DownloadRequest(repo)))
            if begun is not None:  # what was refused stays there to be mended
                self.query_one(Input).value = ""
        await self.read()

    async def action_cancel_download(self) -> None:
        repo = self.chosen
        if repo in self.known:
            await self._ask(lambda client: client.cancel_download(repo))
            await self.read()

    def action_move(self, step: int) -> None:
        options = self.query_one(OptionList)
        if options.option_count:
            at = (options.highlighted or 0) + step
            options.highlighted = min(max(at, 0), options.option_count - 1)


def download_row(download: Download, glyphs: Glyphs) -> Content:
    """`Qwen/Qwen3-0.6B  ━━━━──── 41 % 0.6G of 1.5G  12M/s  75 s left`."""
    parts = [(f"  {download.repo:<30} ", "bold"), (download_words(download, glyphs), "$foreground 80%")]
    if download.error:
        parts.append((f" {download.error.splitlines()[0]}", "$text-error"))
    return Content.assemble(*parts)


def download_words(download: Download, glyphs: Glyphs) -> str:
    """State, progress, speed and the time that is left."""
    if download.state in ("done", "failed"):
        return {"done": "is here", "failed": "failed"}[download.state]
    parts: list[str] = [] if download.state == "downloading" else [download.state]
    step = download.progress
    if step is not None and step.total > 0:
        share = min(1.0, step.done / step.total)
        parts += [bar(share, _BAR, glyphs), f"{share * 100:.0f} %", f"{formats.size(step.done)} of"]
        parts += [formats.size(step.total)]
        if download.bytes_per_second > 0:
            left = (step.total - step.done) / download.bytes_per_second
            parts += [f" {formats.size(download.bytes_per_second)}/s ", f"{formats.seconds(left)} left"]
    elif download.state == "downloading":
        parts.append(step.detail if step is not None and step.detail else "begun")
    return " ".join(parts)
