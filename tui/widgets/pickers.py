"""Small windows over a screen: choose a model or a conversation, set parameters, confirm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Grid, Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, OptionList, Static, TextArea
from textual.widgets.option_list import Option

from fcd.wire.admin import ModelInfo
from tui import formats
from tui.commands import PARAMETERS, parse_parameter
from tui.glyphs import Glyphs
from tui.widgets.form import Form


class Picker(ModalScreen[str | None]):
    """A list with a filter. Gives the chosen option's id, or what was typed when `free` and nothing matches."""

    BINDINGS = [
        Binding("escape", "dismiss(None)", "close"),
        Binding("down", "move(1)", priority=True),
        Binding("up", "move(-1)", priority=True),
        Binding("pagedown", "move(8)", priority=True),
        Binding("pageup", "move(-8)", priority=True),
    ]

    def __init__(
        self,
        title: str,
        options: Sequence[tuple[str, Content]],
        *,
        hint: str = "",
        free: bool = False,
        texts: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            title: stands on top.
            options: id and what is shown.
            hint: the line below.
            free: what was typed may be taken where nothing matches.
            texts: more words of an option, in small letters, that the filter looks into.
        """
        super().__init__()
        self._texts = texts or {}
        self._title = title
        self._options = options
        self._hint = hint
        self._free = free

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Label(self._title, classes="dialog-title")
            yield Input(placeholder="type to filter", compact=True)
            yield OptionList(compact=True)
            yield Static(self._hint, classes="dialog-hint", markup=False)

    def on_mount(self) -> None:
        self._fill("")
        self.query_one(Input).focus()

    def _fill(self, words: str) -> None:
        options = self.query_one(OptionList)
        options.clear_options()
        wanted = words.lower().split()
        beginning = " ".join(wanted)
        first: list[Option] = []
        rest: list[Option] = []
        for name, content in self._options:
            text = f"{name} {content.plain}".lower()
            if all(word in text or word in self._texts.get(name, "") for word in wanted):
                (first if name.lower().startswith(beginning) else rest).append(Option(content, id=name))
        options.add_options([*first, *rest])
        if options.option_count:
            options.highlighted = 0

    @on(Input.Changed)
    def _filter(self, event: Input.Changed) -> None:
        self._fill(event.value)

    @on(Input.Submitted)
    def _choose(self, event: Input.Submitted) -> None:
        options = self.query_one(OptionList)
        if options.highlighted is not None:
            self.dismiss(options.get_option_at_index(options.highlighted).id)
        elif self._free and event.value.strip():
            self.dismiss(event.value.strip())

    @on(OptionList.OptionSelected)
    def _select(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option.id)

    def action_move(self, step: int) -> None:
        options = self.query_one(OptionList)
        if options.option_count:
            at = (options.highlighted or 0) + step
            options.highlighted = min(max(at, 0), options.option_count - 1)


def model_options(models: Iterable[ModelInfo], current: str, glyphs: Glyphs) -> list[tuple[str, Content]]:
    """Rows for a picker of models: the one in use first, then what is ready, then the rest."""

    def order(model: ModelInfo) -> tuple[bool, bool, str]:
        return model.name != current, model.state != "ready", model.name

    rows = []
    for model in sorted(models, key=order):
        mark = glyphs.dot if model.state == "ready" else glyphs.ring if model.state == "available" else glyphs.ellipsis
        facts = [model.state, model.source]
        facts += [formats.size(model.size_bytes)] if model.size_bytes else []
        facts += [f"{formats.context(model.context_length)} ctx"] if model.context_length else []
        style = "bold" if model.name == current else ""
        rows.append(
            (
                model.name,
                Content.assemble(
                    (f"{mark} ", "$text-success" if model.state == "ready" else "$foreground 50%"),
                    (f"{model.name:<28} ", style),
                    (f" {glyphs.separator} ".join(facts), "$foreground 60%"),
                    (f"  {model.description}" if model.description else "", "$foreground 60%"),
                ),
            )
        )
    return rows


class Panel(Form[tuple[str, dict[str, Any]] | None]):
    """The system prompt and the sampling parameters of a conversation."""

    BINDINGS = [
        Binding("escape", "dismiss(None)", "close", priority=True),
        Binding("ctrl+s,ctrl+t", "apply", "apply", priority=True),
    ]

    def __init__(self, system: str, params: Mapping[str, Any], names: Sequence[str] = tuple(PARAMETERS)) -> None:
        super().__init__()
        self._names = names
        self._system = system
        self._params = params
        self._refused = ("", "")
        """The field that is on its way to the focus, and what is wrong with it."""

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog -wide"):
            yield Label("System prompt", classes="dialog-title")
            yield TextArea(self._system, id="system", tab_behavior="focus", compact=True)
            yield Label("Parameters (empty: the model's own)", classes="dialog-title")
            with Grid(id="params"):
                for name in self._names:
                    value = self._params.get(name)
                    yield Label(name, classes="param-name")
                    yield Input("" if value is None else str(value), id=f"param-{name}", compact=True)
            yield Static("", id="param-help", classes="dialog-hint", markup=False)
            yield Static("enter or ^t apply   tab next   esc leave as it was", classes="dialog-hint", markup=False)

    def on_descendant_focus(self) -> None:
        focused = self.focused
        name = (focused.id or "").removeprefix("param-") if focused else ""
        words = PARAMETERS[name][1] if name in PARAMETERS else "Said to the model before the conversation."
        if self._refused[0] == name:
            words = self._refused[1]
        self._refused = ("", "")
        self.query_one("#param-help", Static).update(words)

    @on(Input.Submitted)
    async def action_apply(self) -> None:
        if not await self.typed():
            return
        read = self.read()
        if read is not None:
            self.dismiss(read)

    def read(self) -> tuple[str, dict[str, Any]] | None:
        """What stands here; None where it is nonsense, which is said."""
        params: dict[str, Any] = {}
        for name in self._names:
            field = self.query_one(f"#param-{name}", Input)
            try:
                key, value = parse_parameter(f"{name} {field.value.strip()}")
            except ValueError as error:
                if self.focused is field:
                    self.query_one("#param-help", Static).update(str(error))
                else:
                    self._refused = (name, str(error))
                    field.focus()
                return None
            if value is not None:
                params[key] = value
        return self.query_one("#system", TextArea).text.strip(), params


class Ask(ModalScreen[str | None]):
    """One line of text. Gives it without spaces around, or None.

    `refuse` says why a text will not do, or nothing: then what was typed stays, with the reason.
    """

    BINDINGS = [Binding("escape", "dismiss(None)", "close", priority=True)]

    def __init__(
        self,
        title: str,
        value: str = "",
        *,
        hint: str = "",
        placeholder: str = "",
        refuse: Callable[[str], str] | None = None,
    ) -> None:
        super().__init__()
        self._title = title
        self._value = value
        self._hint = hint
        self._placeholder = placeholder
        self._refuse = refuse

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Label(self._title, classes="dialog-title", markup=False)
            yield Input(self._value, placeholder=self._placeholder, compact=True)
            yield Static("", classes="dialog-refusal", markup=False)
            yield Static(self._hint or "enter do it   esc leave it", classes="dialog-hint", markup=False)

    @on(Input.Submitted)
    def _done(self, event: Input.Submitted) -> None:
        value = event.value.strip()
        why = self._refuse(value) if self._refuse is not None and value else ""
        if not why:
            self.dismiss(value)
            return
        line = self.query_one(".dialog-refusal", Static)
        line.display = True
        line.update(why)


class Confirm(Form[bool]):
    """One question about something that cannot be undone."""

    BINDINGS = [
        Binding("escape,n", "dismiss(False)", "no"),
        Binding("y", "dismiss(True)", "yes"),
    ]

    def __init__(self, question: str, yes: str) -> None:
        super().__init__()
        self._question = question
        self._yes = yes

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog -small"):
            yield Static(self._question, markup=False)
            with Horizontal(classes="buttons"):
                yield Button(f"y  {self._yes}", id="yes", compact=True, variant="error")
                yield Button("n  leave it", id="no", compact=True)

    def on_mount(self) -> None:
        self.query_one("#no", Button).focus()

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "yes")
