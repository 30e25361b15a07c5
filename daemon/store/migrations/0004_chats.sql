-- Conversations. `title` is what a person named it, `beginning` how its first question begins. `origin` is where an
-- imported one came from, so that it comes once.
CREATE TABLE chats (
    id          TEXT PRIMARY KEY,
    title       TEXT NOT NULL DEFAULT '',
    beginning   TEXT NOT NULL DEFAULT '',
    model       TEXT NOT NULL DEFAULT '',
    system      TEXT NOT NULL DEFAULT '',
    params      TEXT NOT NULL DEFAULT '{}',
    pinned      INTEGER NOT NULL DEFAULT 0,
    created_at  REAL NOT NULL,
    updated_at  REAL NOT NULL,
    deleted_at  REAL NOT NULL DEFAULT 0,
    origin      TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX chats_listed ON chats (deleted_at, pinned DESC, updated_at DESC);
CREATE INDEX chats_origin ON chats (origin) WHERE origin <> '';

-- Messages as a tree: those with one parent are variants, of which at most one is chosen.
CREATE TABLE chat_messages (
    number             INTEGER PRIMARY KEY,
    id                 TEXT NOT NULL UNIQUE,
    chat               TEXT NOT NULL REFERENCES chats (id) ON DELETE CASCADE,
    parent             TEXT REFERENCES chat_messages (id) ON DELETE CASCADE,
    chosen             INTEGER NOT NULL DEFAULT 0,
    role               TEXT NOT NULL CHECK (role IN ('user', 'assistant')),
    content            TEXT NOT NULL DEFAULT '',
    reasoning          TEXT NOT NULL DEFAULT '',
    model              TEXT NOT NULL DEFAULT '',
    state              TEXT NOT NULL DEFAULT 'done',
    error              TEXT NOT NULL DEFAULT '',
    error_code         TEXT NOT NULL DEFAULT '',
    prompt_tokens      INTEGER NOT NULL DEFAULT 0,
    completion_tokens  INTEGER NOT NULL DEFAULT 0,
    counted            INTEGER NOT NULL DEFAULT 0,
    ttft_s             REAL NOT NULL DEFAULT 0,
    tokens_per_second  REAL NOT NULL DEFAULT 0,
    thought_s          REAL NOT NULL DEFAULT 0,
    seconds            REAL NOT NULL DEFAULT 0,
    created_at         REAL NOT NULL
) STRICT;
CREATE INDEX chat_messages_chat ON chat_messages (chat, number);
CREATE INDEX chat_messages_parent ON chat_messages (parent);
CREATE UNIQUE INDEX chat_messages_chosen ON chat_messages (chat, coalesce(parent, '')) WHERE chosen = 1;
CREATE INDEX chat_messages_running ON chat_messages (state) WHERE state IN ('waiting', 'writing');

CREATE TABLE chat_attachments (
    message   TEXT NOT NULL REFERENCES chat_messages (id) ON DELETE CASCADE,
    position  INTEGER NOT NULL,
    name      TEXT NOT NULL,
    media     TEXT NOT NULL,
    size      INTEGER NOT NULL,
    data      TEXT NOT NULL,
    PRIMARY KEY (message, position)
) STRICT;

CREATE TABLE chat_presets (
    name    TEXT PRIMARY KEY,
    system  TEXT NOT NULL DEFAULT '',
    params  TEXT NOT NULL DEFAULT '{}'
) STRICT;

-- Things done once, such as taking in the files of former versions.
CREATE TABLE chat_facts (
    name   TEXT PRIMARY KEY,
    value  TEXT NOT NULL
) STRICT;
