-- Battles: two answers to the same prompts. `origin` is where an imported or judged one came from, so that it comes once.
CREATE TABLE battles (
    id          TEXT PRIMARY KEY,
    created_at  REAL NOT NULL,
    mode        TEXT NOT NULL CHECK (mode IN ('blind', 'named')),
    source      TEXT NOT NULL CHECK (source IN ('person', 'judge', 'import')),
    model_a     TEXT NOT NULL,
    model_b     TEXT NOT NULL,
    system      TEXT NOT NULL DEFAULT '',
    history     TEXT NOT NULL DEFAULT '[]',
    sampling    TEXT NOT NULL DEFAULT '{}',
    owner       TEXT NOT NULL DEFAULT '',
    voter       TEXT NOT NULL DEFAULT '',
    tag         TEXT NOT NULL DEFAULT '',
    judge       TEXT NOT NULL DEFAULT '',
    detail      TEXT NOT NULL DEFAULT '{}',
    origin      TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE UNIQUE INDEX battles_origin ON battles (origin) WHERE origin <> '';
CREATE INDEX battles_owner ON battles (owner, created_at);

CREATE TABLE turns (
    battle   TEXT NOT NULL REFERENCES battles (id) ON DELETE CASCADE,
    turn     INTEGER NOT NULL,
    prompt   TEXT NOT NULL,
    text_a   TEXT NOT NULL DEFAULT '',
    text_b   TEXT NOT NULL DEFAULT '',
    state_a  TEXT NOT NULL DEFAULT 'waiting',
    state_b  TEXT NOT NULL DEFAULT 'waiting',
    error_a  TEXT NOT NULL DEFAULT '',
    error_b  TEXT NOT NULL DEFAULT '',
    stats_a  TEXT NOT NULL DEFAULT '{}',
    stats_b  TEXT NOT NULL DEFAULT '{}',
    PRIMARY KEY (battle, turn)
) STRICT, WITHOUT ROWID;

-- One vote per battle, with everything that boards filter by. It can be taken back until `final_at`.
CREATE TABLE votes (
    battle     TEXT PRIMARY KEY REFERENCES battles (id) ON DELETE CASCADE,
    at         REAL NOT NULL,
    final_at   REAL NOT NULL,
    outcome    TEXT NOT NULL CHECK (outcome IN ('a', 'b', 'tie', 'both_bad', 'skip')),
    model_a    TEXT NOT NULL,
    model_b    TEXT NOT NULL,
    source     TEXT NOT NULL,
    mode       TEXT NOT NULL,
    voter      TEXT NOT NULL DEFAULT '',
    judge      TEXT NOT NULL DEFAULT '',
    tag        TEXT NOT NULL DEFAULT '',
    language   TEXT NOT NULL DEFAULT '',
    flags      TEXT NOT NULL DEFAULT '',
    turns      INTEGER NOT NULL DEFAULT 0,
    tokens_a   INTEGER NOT NULL DEFAULT 0,
    tokens_b   INTEGER NOT NULL DEFAULT 0,
    headers_a  INTEGER NOT NULL DEFAULT 0,
    headers_b  INTEGER NOT NULL DEFAULT 0,
    lists_a    INTEGER NOT NULL DEFAULT 0,
    lists_b    INTEGER NOT NULL DEFAULT 0,
    bold_a     INTEGER NOT NULL DEFAULT 0,
    bold_b     INTEGER NOT NULL DEFAULT 0,
    question   TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX votes_at ON votes (at);
CREATE INDEX votes_voter ON votes (voter, at);
CREATE INDEX votes_question ON votes (question) WHERE question <> '';
