"""The daemon's routes, for fcd-api(7)."""

from __future__ import annotations

from typing import NamedTuple


class Route(NamedTuple):
    methods: str
    path: str
    summary: str


ROUTES: tuple[tuple[str, str, tuple[Route, ...]], ...] = (
    (
        "OpenAI",
        "An API key in `Authorization: Bearer KEY`; none is needed on loopback while no key exists.",
        (
            Route("GET", "/v1/models", "the models that requests may name"),
            Route("GET", "/v1/models/{id}", "one of them"),
            Route("POST", "/v1/chat/completions", "an answer to messages; `stream` sends it as it is written"),
            Route("POST", "/v1/responses", "OpenAI's newer route: an answer to a text or items; nothing is stored"),
            Route("POST", "/v1/completions", "text that goes on from a prompt"),
            Route("POST", "/v1/embeddings", "vectors of texts"),
            Route("POST", "/tokenize", "a text or messages as token ids"),
            Route("POST", "/detokenize", "token ids as text"),
            Route("GET", "/tokenizer_info", "what the tokenizer is"),
        ),
    ),
    (
        "FastChat's controller",
        "Reading needs what OpenAI's routes need, or a join token. Registering always needs a join token, as"
        " `Authorization: Bearer TOKEN` or in the path: all of these are also under /join/TOKEN/.",
        (
            Route("POST", "/register_worker", "a worker says that it is there"),
            Route("POST", "/receive_heart_beat", "and that it still is"),
            Route("POST", "/refresh_all_workers", "ask every worker how it is"),
            Route("POST", "/list_models", "names of models"),
            Route("POST", "/list_language_models", "those that take text only"),
            Route("POST", "/list_multimodal_models", "those that take images too"),
            Route("POST", "/get_worker_address", "where a model is served"),
            Route("POST", "/worker_get_status", "the daemon as one worker"),
            Route("POST", "/worker_generate_stream", "an answer in FastChat's frames"),
            Route("GET", "/test_connection", "answers when the daemon does"),
        ),
    ),
    (
        "fcd's own",
        "The local admin token (admin.token in the runtime folder) or an admin key.",
        (
            Route("GET", "/api/status", "pid, url, version, readiness and workers"),
            Route("GET", "/api/settings", "the settings in force, and what is wrong with config.toml"),
            Route("GET", "/api/workers", "the workers"),
            Route("GET", "/api/devices", "what GPUs, CPU and RAM are doing"),
            Route("POST", "/api/workers", "start one"),
            Route("DELETE", "/api/workers/{name}", "stop one"),
            Route("POST", "/api/workers/{name}/restart", "start one again"),
            Route("GET", "/api/workers/{name}/log", "the end of its log"),
            Route("POST", "/api/workers/attach", "use a server that speaks OpenAI's routes as a worker"),
            Route("POST", "/api/workers/{name}/detach", "forget one that was attached"),
            Route("GET POST", "/api/heads", "daemons that this one has joined: list, join"),
            Route("POST", "/api/heads/leave", "leave one"),
            Route("GET", "/api/models", "every model that a name reaches"),
            Route("POST", "/api/models/load", "load one; server-sent events say how far it is"),
            Route("POST", "/api/models/estimate", "what a load would take, and where it would go"),
            Route("POST", "/api/models/unload", "unload one"),
            Route("GET POST", "/api/downloads", "downloads and how far they are; begin one, or go on with one"),
            Route("POST", "/api/downloads/pause", "stop one; what has come stays"),
            Route("POST", "/api/downloads/cancel", "stop one, remove what was begun, and forget it"),
            Route("GET", "/api/events", "server-sent events: what changes"),
            Route("GET", "/api/logs", "the end of the daemon's log"),
            Route("GET POST", "/api/keys", "API keys: list, create"),
            Route("DELETE", "/api/keys/{id}", "revoke one"),
            Route("GET POST", "/api/tokens", "join tokens: list, create"),
            Route("DELETE", "/api/tokens/{id}", "revoke one"),
        ),
    ),
    (
        "Chats",
        "The admin token or an admin key. A chat is a tree of messages, of which one path is shown.",
        (
            Route("GET POST", "/api/chats", "the chats, pinned and latest first; begin one"),
            Route("GET", "/api/chats/search", "chats by what was said in them"),
            Route("GET", "/api/chats/export", "chats as a file; `format` and `ids` say which"),
            Route("POST", "/api/chats/import", "chats from a file; those that are known come once"),
            Route("GET PATCH DELETE", "/api/chats/{id}", "one with all its messages; name, pin, change, delete it"),
            Route("POST", "/api/chats/{id}/restore", "take a deletion back, for a month"),
            Route("GET", "/api/chats/{id}/messages", "a part of the path that is shown"),
            Route("GET", "/api/chats/{id}/messages/{message}", "one message, with its attachments' data"),
            Route("POST", "/api/chats/{id}/choose", "show the path through a message"),
            Route("PUT", "/api/chats/{id}/log", "the chat as it stands in a line; what differs becomes a branch"),
            Route("POST", "/api/chats/{id}/generate", "ask, or ask again; the daemon writes on by itself"),
            Route("GET", "/api/chats/{id}/stream", "server-sent events: an answer as it is written, from a cursor on"),
            Route("POST DELETE", "/api/chats/{id}/queue", "ask after the answer being written; take all back"),
            Route("DELETE", "/api/chats/{id}/queue/{question}", "take back a question that waits"),
            Route("POST", "/api/chats/{id}/stop", "stop the answer and keep what was written"),
            Route("GET", "/api/presets", "system prompts and parameters under names"),
            Route("PUT DELETE", "/api/presets/{name}", "keep one; remove one"),
        ),
    ),
    (
        "The arena",
        "Battles and the board need what OpenAI's routes need, and a key sees only its own battles; the rest needs the"
        " admin token or an admin key.",
        (
            Route("GET POST", "/api/battles", "one's own battles; start one, with models named or drawn"),
            Route("GET", "/api/battles/{id}", "as much of it as its voter may see"),
            Route("GET", "/api/battles/{id}/events", "server-sent events: all of it, then what is written"),
            Route("POST", "/api/battles/{id}/turns", "ask both sides; answered by the same events"),
            Route("POST", "/api/battles/{id}/regenerate", "both answers of the last turn again"),
            Route("POST", "/api/battles/{id}/stop", "stop both sides"),
            Route("POST", "/api/battles/{id}/vote", "vote, once; on disk before the answer"),
            Route("POST", "/api/battles/{id}/undo", "take the vote back, while it is not final"),
            Route("POST", "/api/battles/{id}/reveal", "who they were; makes the vote final"),
            Route("GET", "/api/leaderboard", "ratings with intervals; filters are query parameters"),
            Route("GET", "/api/head-to-head", "who beat whom"),
            Route("GET", "/api/votes", "final votes, newest first"),
            Route("GET", "/api/pairs", "pairs of models, the most informative first"),
            Route("GET", "/api/voters", "voters, and whether they vote like the others"),
            Route("GET", "/api/agreement", "of a judge model with people"),
            Route("POST", "/api/judgments", "a judge model's verdict"),
            Route("GET", "/api/arena/export", "votes as a file; `format` says which"),
            Route("POST", "/api/arena/import", "votes from a file"),
        ),
    ),
    (
        "Health",
        "Open to everybody who can reach the daemon; /metrics needs a key beyond loopback.",
        (
            Route("GET", "/health", "this process answers"),
            Route("GET", "/ready", "it can take work, with the reasons when it cannot"),
            Route("GET", "/metrics", "for Prometheus"),
            Route("GET", "/openapi.json", "what all of these take and answer, as OpenAPI 3.1"),
            Route("GET", "/docs", "the same as a page"),
        ),
    ),
)
