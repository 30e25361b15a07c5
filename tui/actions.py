"""The one table of what a person can do: it feeds the key bindings, the key bar, F1, the palette and the /commands.

`settings.tui.keys` maps an action's id to another key.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Literal

from msgspec import Struct
from textual.binding import Binding, BindingType

from tui.glyphs import Glyphs

Where = Literal["everywhere", "prompt", "chat", "messages", "battle", "votes", "arena", "workers", "logs"]

HEADINGS: Mapping[Where, str] = {
    "everywhere": "Everywhere",
    "prompt": "Prompt",
    "chat": "Chat",
    "messages": "Messages (tab to reach them)",
    "battle": "Battle",
    "votes": "Votes (tab to reach them; arrows vote from an empty prompt too)",
    "arena": "Arena",
    "workers": "Workers",
    "logs": "Logs",
}

PLACES: Mapping[str, tuple[Where, ...]] = {
    "chat": ("prompt", "chat"),
    "battle": ("prompt", "battle", "votes"),
    "arena": ("arena",),
    "workers": ("workers",),
    "logs": ("logs",),
}
"""What belongs to each screen, beside what is everywhere."""


class Action(Struct, frozen=True):
    """`id` is also the name of the method: `action_<id>`."""

    id: str
    where: Where
    keys: str
    label: str
    help: str
    command: str = ""
    """The word after the slash that does the same."""
    argument: str = ""
    """What may follow that word."""
    footer: bool = False
    destructive: bool = False
    """Left out by --readonly: it changes a worker, a vote or the board."""


ACTIONS: tuple[Action, ...] = (
    Action("help", "everywhere", "f1", "keys", "Show all keys", "help", footer=True),
    Action("go_chat", "everywhere", "f2", "chat", "Chat with a model", "chat"),
    Action("go_battle", "everywhere", "f3", "battle", "Two models, one vote", "battle"),
    Action("go_arena", "everywhere", "f4", "arena", "The leaderboard", "arena"),
    Action("go_workers", "everywhere", "f5", "workers", "Watch the workers", "workers"),
    Action("go_logs", "everywhere", "f6", "logs", "Read the logs", "logs"),
    Action("palette", "everywhere", "ctrl+p", "palette", "Find any action by name", footer=True),
    Action("start_daemon", "everywhere", "f8", "start daemon", "Start the daemon, or try again now", "daemon"),
    Action("theme", "everywhere", "f9", "theme", "Next theme", "theme", "[NAME]"),
    Action("leave", "everywhere", "ctrl+q", "quit", "Leave; the daemon stays up", "quit"),
    Action("send", "prompt", "enter", "send", "Send the prompt", footer=True),
    Action("newline", "prompt", "ctrl+j,shift+enter", "newline", "New line (or a backslash at the end)", footer=True),
    Action("back", "prompt", "up", "edit last", "Earlier prompts; when empty: edit the last"),
    Action("forth", "prompt", "down", "later", "Later prompts"),
    Action("complete", "prompt", "tab", "complete", "Complete a /command, or to the messages"),
    Action("scroll_up", "prompt", "pageup", "page up", "Scroll the conversation up"),
    Action("scroll_down", "prompt", "pagedown", "page down", "Scroll the conversation down"),
    Action("stop", "chat", "escape", "stop", "Stop the answer and keep what was written", "stop"),
    Action("unqueue", "chat", "", "take back", "Take the last question that waits back to the prompt", "unqueue"),
    Action("queue", "chat", "ctrl+up", "queue", "What waits: edit or remove any of it", "queue"),
    Action("retry", "chat", "ctrl+r", "retry", "Answer again; earlier answers are kept", "retry", footer=True),
    Action("pick_model", "chat", "ctrl+l", "model", "Choose a model", "model", "[NAME]", footer=True),
    Action("panel", "chat", "ctrl+t", "settings", "System prompt and parameters", "set", "[NAME VALUE]", footer=True),
    Action("system", "chat", "", "system prompt", "Set the system prompt", "system", "TEXT"),
    Action("new", "chat", "ctrl+n", "new chat", "Begin a new conversation", "new", footer=True),
    Action("pick_chat", "chat", "ctrl+s", "chats", "Find, open, name, pin, delete conversations", "open",
           footer=True),
    Action("sidebar", "chat", "", "sidebar", "Show or hide the list beside the chat", "sidebar"),
    Action("rename_chat", "chat", "", "rename", "Name the conversation", "rename", "[TITLE]"),
    Action("pin_chat", "chat", "", "pin", "Keep the conversation on top of the list, or no more", "pin"),
    Action("delete_chat", "chat", "", "delete chat", "Delete the conversation", "delete", destructive=True),
    Action("undelete", "chat", "", "undelete", "Take the last deletion back", "undelete", destructive=True),
    Action("attach", "chat", "ctrl+o", "attach", "Let a file go with the question", "attach", "[FILE]"),
    Action("detach", "chat", "", "detach", "Leave the attached files out", "detach"),
    Action("preset", "chat", "", "preset", "Take a kept system prompt and parameters", "preset", "[NAME]"),
    Action("save", "chat", "", "save", "Write the conversation to a Markdown file", "save", "[FILE]"),
    Action("export_chat", "chat", "", "export", "Write it as .md, .json, sharegpt or fastchat", "export",
           "[FILE [FORMAT]]"),
    Action("import_chats", "chat", "", "import", "Take in chats of fcd, ChatGPT, ShareGPT, FastChat", "import",
           "[FILE]", destructive=True),
    Action("editor", "chat", "ctrl+g", "editor", "Write the prompt in $EDITOR", "editor"),
    Action("follow", "chat", "ctrl+end", "follow", "Go to the end and follow the answer", "end"),
    Action("copy_answer", "chat", "f7", "copy answer", "Copy the last answer", "copy"),
    Action("older", "messages", "k,up", "up", "The message above"),
    Action("newer", "messages", "j,down", "down", "The message below"),
    Action("first", "messages", "g,home", "first", "The first message"),
    Action("last", "messages", "G,shift+g,end", "last", "The last message, and follow"),
    Action("copy_message", "messages", "y", "copy", "Copy the message", footer=True),
    Action("copy_code", "messages", "c", "copy code", "Copy its next code block", footer=True),
    Action("previous_variant", "messages", "[,left_square_bracket,left", "previous answer",
           "The answer or branch before", footer=True),
    Action("next_variant", "messages", "],right_square_bracket,right", "next answer", "The answer or branch after",
           footer=True),
    Action("fold", "messages", "space", "thoughts", "Open or fold the thoughts", footer=True),
    Action("edit", "messages", "e", "edit", "Edit the question; it begins a branch", footer=True),
    Action("answer_again", "messages", "r", "again", "Answer the question again", footer=True),
    Action("to_prompt", "messages", "enter,i,tab", "prompt", "Back to the prompt", footer=True),
    Action("stop_battle", "battle", "escape", "stop", "Stop both answers and keep what was written", "stop",
           destructive=True),
    Action("again", "battle", "ctrl+r", "again", "Both answers again", "retry", footer=True, destructive=True),
    Action("pool", "battle", "ctrl+l", "models", "Blind among these models, or two of them by name", "models",
           footer=True, destructive=True),
    Action("new_round", "battle", "ctrl+n", "new round", "Begin a new round", "new", footer=True, destructive=True),
    Action("battle_panel", "battle", "ctrl+t", "settings", "System prompt and parameters of both", "set", footer=True),
    Action("copy_both", "battle", "f7", "copy both", "Copy both answers", "copy"),
    Action("zoom", "votes", "m", "zoom", "One answer on the whole width, or both", "zoom"),
    Action("vote", "battle", "", "vote", "Vote: a, b, tie, bad or skip", "vote", "OUTCOME", destructive=True),
    Action("vote_a", "votes", "left,a", "A", "A is better", footer=True, destructive=True),
    Action("vote_b", "votes", "right,b", "B", "B is better", footer=True, destructive=True),
    Action("vote_tie", "votes", "down,t", "tie", "A tie", footer=True, destructive=True),
    Action("vote_bad", "votes", "up,x", "both bad", "Both are bad", footer=True, destructive=True),
    Action("vote_skip", "votes", "s", "skip", "Skip: no vote, but the names", footer=True, destructive=True),
    Action("undo_vote", "votes", "z", "undo", "Take the vote back before the names come", "undo", destructive=True),
    Action("reveal", "votes", "r", "names", "Show the names now; the vote stays", "reveal", destructive=True),
    Action("other_pane", "votes", "tab", "other side", "The other answer; with both on the screen: the prompt",
           footer=True),
    Action("vote_prompt", "votes", "enter,i,shift+tab", "prompt", "Back to the prompt", footer=True),
    Action("open_row", "arena", "enter", "open", "Head to head; both answers of a vote", footer=True),
    Action("heat", "arena", "h", "heat map", "Who beats whom: won, predicted, battles", footer=True),
    Action("show_votes", "arena", "v", "votes", "Votes, with both answers", footer=True),
    Action("filters", "arena", "f", "filter", "Time, language, models, length, who voted", footer=True),
    Action("export_votes", "arena", "e", "export", "Write votes or the board to a file", footer=True),
    Action("import_votes", "arena", "i", "import", "Take in votes from a file", footer=True, destructive=True),
    Action("to_board", "arena", "escape", "board", "Back to the board"),
    Action("load_worker", "workers", "l", "load", "Load a model", footer=True, destructive=True),
    Action("unload_worker", "workers", "u", "unload", "Unload the worker's model", footer=True, destructive=True),
    Action("stop_worker", "workers", "x", "stop", "Stop the worker", footer=True, destructive=True),
    Action("restart_worker", "workers", "r", "restart", "Restart the worker", footer=True, destructive=True),
    Action("downloads", "workers", "d", "download", "Download models: begin, pause, go on, cancel", footer=True,
           destructive=True),
    Action("test_worker", "workers", "t", "test", "Ask the worker's model for one short answer", footer=True),
    Action("attach_worker", "workers", "a", "attach", "Use a server elsewhere as a worker", footer=True,
           destructive=True),
    Action("worker_log", "workers", "L,shift+l,enter", "log", "Read the worker's log", footer=True),
    Action("filter_workers", "workers", "slash", "filter", "Show only workers that match", footer=True),
    Action("sort_workers", "workers", "s", "sort", "Sort by the next column", footer=True),
    Action("filter_logs", "logs", "slash", "find", "Find words", footer=True),
    Action("next_match", "logs", "n", "next", "Next match", footer=True),
    Action("next_error", "logs", "e", "next error", "Next error", footer=True),
    Action("level", "logs", "f", "level", "Show from the next level up", footer=True),
    Action("next_source", "logs", "w", "source", "Next log: the daemon's, each worker's", footer=True),
    Action("pause", "logs", "p", "follow", "Follow the end, or stay", footer=True),
    Action("copy_log", "logs", "y", "copy", "Copy what is shown"),
)  # fmt: skip

BY_ID: Mapping[str, Action] = {action.id: action for action in ACTIONS}
_SCREENS = {"chat", "messages", "battle", "votes", "arena", "workers", "logs"}


def bindings(where: Where) -> list[BindingType]:
    """Textual bindings of one place; each keeps its action's id, so that settings can move it."""
    found: list[BindingType] = []
    for action in ACTIONS:
        if action.where != where or not action.keys:
            continue
        namespace = "app." if where == "everywhere" else "screen." if where in _SCREENS else ""
        found.append(
            Binding(
                action.keys,
                f"{namespace}{action.id}",
                action.label,
                show=False,
                id=action.id,
                priority=where == "everywhere" or action.keys == "f7",  # a field for text selects all with it
            )
        )
    return found


def keys_of(where: Where, moved: Mapping[str, str]) -> dict[str, str]:
    """Key to action id, for a widget that reads keys itself."""
    return {
        key.strip(): action.id
        for action in ACTIONS
        if action.where == where
        for key in (moved.get(action.id) or action.keys).split(",")
    }


def keymap(wanted: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The usable part of `settings.tui.keys`, and a sentence for each name that is no action or has no key."""
    usable: dict[str, str] = {}
    problems: list[str] = []
    for name, key in wanted.items():
        if name in BY_ID and key:
            usable[name] = key
            continue
        near = difflib.get_close_matches(name, BY_ID, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        problems.append(f"tui.keys: there is no action '{name}'.{hint}" if key else f"tui.keys.{name}: no key given.")
    return usable, problems


def key_of(action: Action, moved: Mapping[str, str]) -> str:
    """The first key of an action, as Textual spells it; empty when it has none."""
    return (moved.get(action.id) or action.keys).split(",")[0]


_NAMES = {
    "escape": "esc",
    "pageup": "PgUp",
    "pagedown": "PgDn",
    "slash": "/",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "home": "Home",
    "end": "End",
}


def keys_shown(action: Action, moved: Mapping[str, str], glyphs: Glyphs) -> str:
    """All the keys of an action as people write them, each once."""
    keys = (moved.get(action.id) or action.keys).split(",")
    return " ".join(dict.fromkeys(show_key(key.strip(), glyphs) for key in keys if key))


def show_key(key: str, glyphs: Glyphs) -> str:
    """A key as people write it: `^r`, `F1`, `esc`."""
    if key.startswith("ctrl+"):
        rest = key.removeprefix("ctrl+")
        if rest in ("up", "down", "left", "right"):
            return f"^{show_key(rest, glyphs)}"
        return f"^{_NAMES.get(rest, rest)}"
    if key.startswith("shift+") and len(key) == len("shift+g"):
        return key[-1].upper()
    if key in ("enter", "up", "down", "left", "right"):
        arrows = {"enter": glyphs.enter, "up": glyphs.up, "down": "↓", "left": "←", "right": "→"}
        return arrows[key] if key in ("enter", "up") or not glyphs.ascii else key
    if key.startswith("f") and key[1:].isdigit():
        return key.upper()
    return _NAMES.get(key, key)


def commands(screen: str = "chat") -> Iterable[Action]:
    """Actions that a /command of a screen's prompt reaches."""
    places = ("everywhere", *PLACES[screen])
    return (action for action in ACTIONS if action.command and action.where in places)


def footer(where: Iterable[Where], *, readonly: bool) -> list[Action]:
    """What the key bar names, in this order, for these places."""
    return [
        action
        for place in where
        for action in ACTIONS
        if action.where == place and action.footer and not (readonly and action.destructive)
    ]
