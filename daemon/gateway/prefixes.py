"""Hashes of how a request begins, so that a conversation can return to the replica whose cache holds it.

Only read for models with several workers. The parts are hashed as the client wrote them, which it does the same way in
each turn; nothing is rendered or tokenised.
"""

from __future__ import annotations

import msgspec

MOST_PARTS = 64
"""Beginnings of more parts than this are not told apart by their middle."""
_BLOCK = 1024
"""A prompt, a text or token ids, is cut into parts of so many bytes."""


class _Body(msgspec.Struct):
    messages: list[msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET
    tools: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    prompt: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decoder = msgspec.json.Decoder(_Body)


def prefixes_of(body: bytes) -> tuple[int, ...]:
    """One hash for each leading part, longest last; of a long conversation the first and the last ones.

    Empty for what has neither messages nor a prompt; what is wrong with it is the worker's to say.
    """
    try:
        fields = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ()
    if isinstance(fields.messages, list):
        parts = [bytes(part) for part in fields.messages]
        if not isinstance(fields.tools, msgspec.UnsetType):
            parts.insert(0, bytes(fields.tools))
    elif not isinstance(fields.prompt, msgspec.UnsetType):
        text = bytes(fields.prompt)
        parts = [text[start : start + _BLOCK] for start in range(0, len(text), _BLOCK)]
    else:
        return ()
    chain, hashes = 0, []
    for part in parts:
        chain = hash((chain, part))
        hashes.append(chain)
    if len(hashes) > MOST_PARTS:
        half = MOST_PARTS // 2
        hashes = hashes[:half] + hashes[-half:]
    return tuple(hashes)
