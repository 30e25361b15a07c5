-- API keys and join tokens. `digest` is the SHA-256 of a secret of 256 random bits, so that it needs no salt.
CREATE TABLE credentials (
    id          TEXT PRIMARY KEY,
    kind        TEXT NOT NULL CHECK (kind IN ('key', 'token')),
    name        TEXT NOT NULL,
    scope       TEXT NOT NULL CHECK (scope IN ('inference', 'admin', 'join')),
    digest      BLOB NOT NULL,
    created_at  REAL NOT NULL,
    expires_at  REAL NOT NULL DEFAULT 0,
    revoked_at  REAL NOT NULL DEFAULT 0
) STRICT;
