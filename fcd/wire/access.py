"""API keys and join tokens, as /api/keys and /api/tokens show and take them."""

from __future__ import annotations

from typing import Literal

import msgspec

KeyScope = Literal["inference", "admin"]


class CredentialInfo(msgspec.Struct, omit_defaults=True):
    """A key or token without its secret, which is kept nowhere."""

    id: str
    name: str = ""
    scope: str = ""
    created_at: float = 0.0
    """Unix time in seconds."""
    expires_at: float = 0.0
    """0 is never."""


class CredentialList(msgspec.Struct):
    credentials: list[CredentialInfo]


class CreateKey(msgspec.Struct, forbid_unknown_fields=True):
    name: str = ""
    scope: KeyScope = "inference"
    ttl_s: float = 0.0
    """How long it is good for; 0 is for ever."""


class CreateToken(msgspec.Struct, forbid_unknown_fields=True):
    name: str = ""
    ttl_s: float = 0.0


class CreatedCredential(msgspec.Struct):
    """The answer to making one: the only time that the secret is shown."""

    secret: str
    credential: CredentialInfo
