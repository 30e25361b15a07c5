-- Servers elsewhere that the owner attached as workers, and daemons that this one has joined. The keys and tokens in here
-- are sent to those servers, so they cannot be kept as digests; the file is its owner's alone.
CREATE TABLE attachments (
    name        TEXT PRIMARY KEY,
    url         TEXT NOT NULL UNIQUE,
    api_key     TEXT NOT NULL DEFAULT '',
    names       TEXT NOT NULL,
    attached_at REAL NOT NULL
) STRICT;

CREATE TABLE heads (
    url       TEXT PRIMARY KEY,
    token     TEXT NOT NULL,
    joined_at REAL NOT NULL
) STRICT;
