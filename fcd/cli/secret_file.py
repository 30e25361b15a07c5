"""Keys and tokens from files, so that they stand in no process list and no shell history."""

from __future__ import annotations

from pathlib import Path

from fcd.errors import UsageError


def read_secret(file: Path, what: str, *, hint: str = "") -> str:
    """The file's text without the white space around it.

    Raises:
        UsageError: it cannot be read, is empty, or holds what cannot stand in a header.
    """
    try:
        secret = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The {what} cannot be read from {file}: {error}") from error
    if not secret:
        raise UsageError(f"{file} holds no {what}.", hint=hint)
    if not all("!" <= character <= "~" for character in secret):
        raise UsageError(f"{file} holds more than a {what}: it may be one word of printable ASCII.", hint=hint)
    return secret
