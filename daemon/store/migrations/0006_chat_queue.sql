-- Questions that wait until the answer before them is written. `attachments` is JSON.
CREATE TABLE chat_queue (
    number       INTEGER PRIMARY KEY,
    id           TEXT NOT NULL UNIQUE,
    chat         TEXT NOT NULL REFERENCES chats (id) ON DELETE CASCADE,
    prompt       TEXT NOT NULL,
    attachments  TEXT NOT NULL DEFAULT '[]',
    created_at   REAL NOT NULL
) STRICT;
CREATE INDEX chat_queue_chat ON chat_queue (chat, number);
