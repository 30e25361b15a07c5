"""A conversation in the terminal: reads what is typed, runs commands, asks, and keeps everything after every turn."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Any

from fcd import chatlog
from fcd.chatlog import Chat, ChatMessage
from fcd.cli.chatting import slash
from fcd.cli.chatting.displays import Style, make_display
from fcd.cli.chatting.editor import Editor, make_editor
from fcd.cli.chatting.session import Outcome, Session, interruptible, next_step
from fcd.cli.output import note, wants_colour
from fcd.errors import EXIT_OK, FcdError, NotRunning
from fcd.paths import Paths
from fcd.wire.admin import ModelOptions
from fcd.wire.chats import MAX_ATTACHMENTS, Attachment


async def converse(
    session: Session, model: str, chat: Chat, paths: Paths, *, style: Style, multiline: bool, keep: bool
) -> int:
    """Load the model and talk until the person leaves; `keep=False` asks each question alone and writes nothing."""
    try:
        await session.load(model)
        chat.model = session.model
        return await Conversation(session, chat, paths, style=style, multiline=multiline, keep=keep).run()
    finally:
        await session.close()


class Conversation:
    """The loop and its commands. `keep=False` asks each question on its own and writes nothing."""

    def __init__(
        self, session: Session, chat: Chat, paths: Paths, *, style: Style, multiline: bool = False, keep: bool = True
    ) -> None:
        self._session = session
        self._chat = chat
        self._paths = paths
        self._style: Style = style
        self._keep = keep
        self._away = False
        """The daemon did not answer the last time."""
        self._pending: ChatMessage | None = None
        """A question that got no answer at all, for /regen."""
        self._files: list[Attachment] = []
        """What goes with the next question."""
        self._models: list[str] = []
        self._own_files: set[Path] = set()
        history = paths.state / "chat-history" if keep else None
        self._editor: Editor = make_editor(style, multiline=multiline, history=history, models=lambda: self._models)

    async def run(self) -> int:
        """Until the person leaves."""
        self._greet()
        with contextlib.suppress(FcdError):
            self._models = await self._session.model_names()
        interrupted = False
        while True:
            try:
                line = await self._editor.read()
            except EOFError:
                return EXIT_OK
            except (KeyboardInterrupt, asyncio.CancelledError):
                if interrupted:
                    return EXIT_OK
                interrupted = True
                self._say("Ctrl-C again leaves.")
                continue
            interrupted = False
            if line.strip() and not await self._handle(line):
                return EXIT_OK

    async def _handle(self, line: str) -> bool:
        """Do what a line says; False to leave."""
        try:
            command = slash.parse_line(line)
            if command is None:
                await self._ask(line)
                return True
            if command[0] == "/exit":
                return False
            await self._command(*command)
        except FcdError as error:
            self._complain(error)
        return True

    async def _ask(self, text: str) -> None:
        files, self._files = self._files, []
        asked = self._pending = chatlog.question(text, files)
        if not await self._connected():
            return
        self._pending = None
        if not self._keep:
            self._chat.messages.clear()
        self._chat.messages.append(asked)
        await self._answer()

    async def _connected(self) -> bool:
        """After the daemon went away: start it and load the model again; False when Ctrl-C ended the wait."""
        if not self._away:
            return True
        if not await interruptible(self._session.reconnect()):
            self._say("(Stopped. /regen asks again.)")
            return False
        self._away = False
        return True

    async def _answer(self) -> None:
        outcome = await self._session.answer(self._chat, make_display(self._style))
        if not outcome.message.content and (outcome.error is not None or outcome.stopped):
            self._pending = self._chat.undo()
        await self._keep_chat()
        self._report(outcome)

    def _report(self, outcome: Outcome) -> None:
        if outcome.stopped:
            kept = "what was written is kept" if outcome.message.content else "nothing was written yet"
            self._say(f"(Stopped; {kept}. /regen answers again.)")
        elif outcome.error is not None:
            self._away = isinstance(outcome.error, NotRunning)
            note(f"fcd: {outcome.error.message}")
            if outcome.message.content:
                note("What was written is kept.")
            note(next_step(outcome.error))
        elif outcome.finish_reason == "length":
            self._say('(Cut at the token limit: `/set max_tokens N` raises it; "go on" may continue.)')
        elif not outcome.message.content:
            self._say("(The model answered with nothing.)")

    async def _command(self, name: str, argument: str) -> None:
        handlers: dict[str, Any] = {
            "/help": lambda: print(slash.help_text()),
            "/reset": self._reset,
            "/save": lambda: self._save(argument),
            "/load": lambda: self._load(argument),
            "/export": lambda: self._export(argument),
            "/system": lambda: self._system(argument),
            "/set": lambda: self._set(argument),
            "/stats": self._stats,
            "/attach": lambda: self._attach(argument),
            "/detach": self._detach,
        }
        if name == "/regen":
            await self._regenerate()
        elif name == "/model":
            await self._model(argument)
        elif name == "/undo":
            await self._undo()
        else:
            handlers[name]()

    def _reset(self) -> None:
        self._chat = chatlog.new_chat(self._session.model, self._chat.system, self._chat.parameters)
        self._pending, self._files = None, []
        self._say("A new conversation.")

    async def _undo(self) -> None:
        question, self._pending = self._pending or self._chat.undo(), None
        if question is None:
            self._say("There is nothing to undo.")
            return
        await self._keep_chat()
        first = question.content.strip().partition("\n")[0]
        self._say(f"Dropped: {first[:60]}{'...' if len(first) > 60 else ''}")

    async def _regenerate(self) -> None:
        if not await self._connected():
            return
        if self._pending is not None:
            self._chat.messages.append(self._pending)
            self._pending = None
        elif not self._chat.drop_answer():
            self._say("There is no question to answer again.")
            return
        await self._answer()

    def _save(self, argument: str) -> None:
        file = _path(argument, ".json")
        self._check_free(file)
        chatlog.save_chat(self._chat, file)
        self._own_files.add(file)
        self._say(f"Saved to {file}.")

    def _load(self, argument: str) -> None:
        file = Path(argument).expanduser()
        if not file.exists() and file.with_name(file.name + ".json").exists():
            file = file.with_name(file.name + ".json")
        loaded = chatlog.load_chat(file)
        asked_of = loaded.model
        fresh = chatlog.new_chat(self._session.model, loaded.system, loaded.parameters)
        fresh.messages = loaded.messages
        self._chat, self._pending = fresh, None
        self._say(f"Loaded {len(fresh.messages)} messages from {file}.")
        if asked_of and asked_of != self._session.model:
            self._say(f"They were with {asked_of}; `/model {asked_of}` switches to it.")

    def _export(self, argument: str) -> None:
        file = _path(argument, ".md")
        if file.suffix not in (".md", ".markdown", ".json"):
            raise FcdError(f"{file.name}: /export writes .md (to read) or .json (the messages of a request).")
        self._check_free(file)
        text = chatlog.to_openai_json(self._chat) if file.suffix == ".json" else chatlog.to_markdown(self._chat)
        chatlog.write_atomically(file, text.encode())
        self._own_files.add(file)
        self._say(f"Exported to {file}.")

    def _attach(self, argument: str) -> None:
        from fcd.attachments import described, image_file, read_attachment

        if len(self._files) >= MAX_ATTACHMENTS:
            raise FcdError(f"At most {MAX_ATTACHMENTS} files go with a question.", hint="/detach leaves them out.")
        try:
            file = read_attachment(image_file(argument) or Path(argument).expanduser())
        except ValueError as error:
            raise FcdError(str(error)) from None
        able = self._session.capabilities
        if file.is_image and "chat" in able and "vision" not in able:
            raise FcdError(
                f"{self._session.model} cannot see images.",
                hint="/model NAME switches to a model that can, such as Gemma 3.",
            )
        self._files.append(file)
        self._say(f"With the next question: {', '.join(described(each) for each in self._files)}")

    def _detach(self) -> None:
        count, self._files = len(self._files), []
        self._say(f"Left out: {count} files." if count != 1 else "Left out: 1 file.")

    def _check_free(self, file: Path) -> None:
        if file.exists() and file not in self._own_files:
            raise FcdError(f"{file} exists already.", hint="Give another name, or remove that file first.")
        if not file.parent.is_dir():
            raise FcdError(f"There is no folder {file.parent}.", hint="Make it first, or name one that is there.")

    async def _model(self, argument: str) -> None:
        if not argument:
            self._models = await self._session.model_names()
            for name in self._models:
                print(f"{'*' if name == self._session.model else ' '} {name}")
            return
        from fcd.cli.model_flags import for_daemon

        options = ModelOptions()
        if not await interruptible(self._session.load(for_daemon(argument), options)):
            self._say("Not switched: the daemon may go on loading it (`fcd ps`).")
            return
        self._chat.model = self._session.model
        self._say(f"Now talking to {self._session.model}.")

    def _system(self, argument: str) -> None:
        if not argument:
            self._say(self._chat.system or "There is no system message.")
            return
        self._chat.system = "" if argument == "-" else argument
        self._say("The system message is " + ("set." if self._chat.system else "removed."))

    def _set(self, argument: str) -> None:
        if not argument:
            for name, value in self._chat.parameters.items():
                print(f"{name} {value}")
            if not self._chat.parameters:
                self._say("Nothing is set: the model's own values are used.")
            return
        name, value = slash.parse_setting(argument)
        if value is None:
            self._chat.parameters.pop(name, None)
            self._say(f"{name} is left to the model.")
        else:
            self._chat.parameters[name] = value
            self._say(f"{name} = {value}")

    def _stats(self) -> None:
        if self._session.last is None:
            self._say("No answer yet.")
            return
        message = self._session.last.message
        spent = message.seconds - message.ttft_s
        rate = f", {(message.tokens - 1) / spent:.1f} tokens/s" if message.tokens > 1 and spent > 0 else ""
        count = f"{message.tokens} tokens" if message.tokens else f"{len(message.content)} characters"
        first = f", first token after {message.ttft_s * 1000:.0f} ms" if message.ttft_s else ""
        context = f", context {self._session.context_length} tokens" if self._session.context_length else ""
        print(f"{count} in {message.seconds:.2f} s{first}{rate}{context}")

    async def _keep_chat(self) -> None:
        if not self._keep:
            return
        try:
            chatlog.keep_chat(self._chat, self._paths)
        except FcdError as error:
            note(f"fcd: this conversation could not be kept: {error.message}")
        if not self._away:
            await self._session.keep(self._chat)

    def _greet(self) -> None:
        if self._style == "programmatic":
            return
        self._say(f"{self._session.model}: /help lists the commands, Ctrl-D leaves.")
        if self._chat.messages:
            self._say(f'Going on with "{self._chat.title}", {len(self._chat.messages)} messages.')

    def _say(self, text: str) -> None:
        """A word of ours, dim where that can be shown; on stderr when a program reads stdout."""
        if self._style == "programmatic" or not sys.stdout.isatty():
            note(text)
        elif wants_colour(sys.stdout):
            print(f"\x1b[2m{text}\x1b[0m", flush=True)
        else:
            print(text, flush=True)

    def _complain(self, error: FcdError) -> None:
        if isinstance(error, NotRunning):
            self._away = True
        note(f"fcd: {error.message}")
        if error.hint:
            note(error.hint)


def _path(argument: str, suffix: str) -> Path:
    file = Path(argument).expanduser()
    return file if file.suffix else file.with_name(file.name + suffix)
