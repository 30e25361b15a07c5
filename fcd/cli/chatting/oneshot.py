"""One question, one answer on stdout, an exit code."""

from __future__ import annotations

import sys
from typing import Any

from fcd.chatlog import Chat, keep_chat
from fcd.cli.chatting.displays import SimpleDisplay
from fcd.cli.chatting.session import Outcome, Session
from fcd.cli.output import note, print_json
from fcd.errors import EXIT_INTERRUPTED, EXIT_OK, ApiError, FcdError, UsageError
from fcd.paths import Paths


def read_pipe(limit: int) -> str:
    """What stands on stdin when that is a pipe or a file; empty for a terminal or nothing.

    Raises:
        UsageError: it is no text, or more than `limit` bytes.
    """
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        return ""
    data = sys.stdin.buffer.read(limit + 1)
    if len(data) > limit:
        raise UsageError(
            f"The pipe holds more than {limit} bytes.",
            hint="daemon.max_body_bytes is the limit; send less, or raise it.",
        )
    try:
        return data.decode("utf-8").strip("\r\n")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"The pipe is not UTF-8 text (byte {error.start}).", hint="Convert it first, as with `iconv -t utf-8`."
        ) from error


def join_prompt(prompt: str, piped: str) -> str:
    """The question that the words of the command line and the pipe make together."""
    if not prompt.strip() or not piped.strip():
        return prompt if prompt.strip() else piped
    return f"{prompt} {piped}" if "\n" not in piped else f"{prompt}\n\n{piped}"


async def ask_once(
    session: Session, model: str, chat: Chat, question: str, *, keep_in: Paths | None = None, as_json: bool = False
) -> int:
    """Load the model, print the answer as it comes. 130 when it was interrupted; what had come stays printed.

    `keep_in` says where the conversation is kept, for a question that goes on with one. `as_json`: one object at the
    end, with the text, the tokens and the times.
    """
    try:
        await session.load(model)
        chat.model = session.model
        chat.ask(question)
        outcome = await session.answer(chat, _Silent() if as_json else SimpleDisplay(sys.stdout))
        if keep_in is not None:
            keep_chat(chat, keep_in)
            await session.keep(chat)
    finally:
        await session.close()
    if as_json and outcome.error is None:
        print_json(_facts(session.model, outcome))
    if outcome.stopped:
        return EXIT_INTERRUPTED
    if outcome.error is not None:
        raise _with_hint(outcome.error)
    if as_json:
        return EXIT_OK
    if outcome.finish_reason == "length":
        note("(The answer was cut at the token limit; --max-new-tokens raises it.)")
    if not outcome.message.content:
        note("(The model answered with nothing.)")
    return EXIT_OK


class _Silent:
    """Nothing is shown before the end."""

    def add(self, text: str) -> None: ...

    def finish(self) -> None: ...


def _facts(model: str, outcome: Outcome) -> dict[str, Any]:
    message = outcome.message
    writing_s = message.seconds - message.ttft_s
    speed = (message.tokens - 1) / writing_s if message.tokens > 1 and writing_s > 0 else None
    return {
        "model": model,
        "text": message.content,
        "finish_reason": outcome.finish_reason or None,
        "usage": outcome.usage or None,
        "timings": {
            "ttft_ms": round(1000 * message.ttft_s, 3),
            "total_ms": round(1000 * message.seconds, 3),
            "tokens_per_second": None if speed is None else round(speed, 2),
        },
    }


def _with_hint(error: FcdError) -> FcdError:
    code: Any = getattr(error, "code", "")
    if code == "context_length_exceeded":
        error.hint = "Ask with less text, or use a model with a longer context (`fcd ls`)."
    elif isinstance(error, ApiError) and error.status == 400:
        error.hint = error.hint or "`fcd chat --help` says what each flag takes."
    elif not error.hint:
        error.hint = "`fcd daemon status` says how the daemon is; `fcd daemon logs` has the details."
    return error
