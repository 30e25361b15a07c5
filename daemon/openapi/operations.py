"""What each route takes and answers. Summaries come from the table of routes that the manual is made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from daemon.access import Need, need_of
from daemon.arena.routes import ImportRequest
from fcd.cli.routes import ROUTES
from fcd.settings import Settings
from fcd.wire import (
    access,
    admin,
    arena,
    chats,
    controller,
    devices,
    downloads,
    neighbours,
    openai,
    openai_answers,
    openai_responses,
)

JSON = "application/json"
EVENTS = "text/event-stream"
TEXT = "text/plain"


class Answer(msgspec.Struct, frozen=True):
    kind: Any = None
    """A type that msgspec knows; None: any JSON."""
    media: tuple[str, ...] = (JSON,)


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    method: str
    path: str
    summary: str
    group: str
    need: Need
    body: Any = None
    """The type of the JSON body; None: there is none."""
    answers: Mapping[int, Answer] = {}
    query: Mapping[str, Mapping[str, Any]] = {}
    loose: bool = False
    """The body may hold more than the type says, which is passed over: FastChat's routes."""


class FastChatParams(msgspec.Struct):
    """What /worker_generate_stream takes; FastChat's clients send more."""

    model: str
    prompt: str = ""


class SettingsAnswer(msgspec.Struct):
    """GET /api/settings: what is in force."""

    settings: Settings
    config_file: str
    warnings: list[str]
    """A config.toml that is not in force, and what waits for a restart."""


_LINES = {"lines": {"type": "integer", "minimum": 1, "maximum": 10_000, "default": 200}}
_PAGE = {
    "limit": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
    "offset": {"type": "integer", "minimum": 0, "maximum": 100_000_000, "default": 0},
}
_STREAMED = (JSON, EVENTS)
_BODIES: Mapping[tuple[str, str], Any] = {
    ("POST", "/v1/chat/completions"): openai.ChatRequest,
    ("POST", "/v1/responses"): openai_responses.ResponsesRequest,
    ("POST", "/v1/completions"): openai.CompletionRequest,
    ("POST", "/v1/embeddings"): openai.EmbeddingRequest,
    ("POST", "/tokenize"): openai.TokenizeRequest,
    ("POST", "/detokenize"): openai.DetokenizeRequest,
    ("POST", "/register_worker"): controller.RegisterWorker,
    ("POST", "/receive_heart_beat"): controller.HeartBeat,
    ("POST", "/get_worker_address"): controller.ModelQuery,
    ("POST", "/worker_generate_stream"): FastChatParams,
    ("POST", "/api/workers"): admin.LoadRequest,
    ("POST", "/api/workers/attach"): neighbours.AttachRequest,
    ("POST", "/api/heads"): neighbours.JoinRequest,
    ("POST", "/api/heads/leave"): neighbours.LeaveRequest,
    ("POST", "/api/models/load"): admin.LoadRequest,
    ("POST", "/api/models/estimate"): admin.LoadRequest,
    ("POST", "/api/models/unload"): admin.UnloadRequest,
    ("POST", "/api/downloads"): downloads.DownloadRequest,
    ("POST", "/api/downloads/pause"): downloads.RepoRequest,
    ("POST", "/api/downloads/cancel"): downloads.RepoRequest,
    ("POST", "/api/keys"): access.CreateKey,
    ("POST", "/api/tokens"): access.CreateToken,
    ("POST", "/api/battles"): arena.BattleRequest,
    ("POST", "/api/battles/{id}/turns"): arena.TurnRequest,
    ("POST", "/api/battles/{id}/vote"): arena.VoteRequest,
    ("POST", "/api/arena/import"): ImportRequest,
    ("POST", "/api/judgments"): arena.JudgedPair,
    ("POST", "/api/chats"): chats.CreateChat,
    ("PATCH", "/api/chats/{id}"): chats.PatchChat,
    ("POST", "/api/chats/import"): chats.ImportChats,
    ("POST", "/api/chats/{id}/choose"): chats.ChooseRequest,
    ("PUT", "/api/chats/{id}/log"): chats.PutLog,
    ("POST", "/api/chats/{id}/generate"): chats.GenerateRequest,
    ("POST", "/api/chats/{id}/queue"): chats.QueueRequest,
    ("PUT", "/api/presets/{name}"): chats.Preset,
}
_ANSWERS: Mapping[tuple[str, str], Mapping[int, Answer]] = {
    ("POST", "/v1/chat/completions"): {200: Answer(openai_answers.ChatCompletion, _STREAMED)},
    ("POST", "/v1/responses"): {200: Answer(openai_responses.ResponseObject, _STREAMED)},
    ("POST", "/v1/completions"): {200: Answer(openai_answers.Completion, _STREAMED)},
    ("POST", "/v1/embeddings"): {200: Answer(openai_answers.EmbeddingAnswer)},
    ("POST", "/tokenize"): {200: Answer(openai.TokenizeAnswer)},
    ("POST", "/detokenize"): {200: Answer(openai.DetokenizeAnswer)},
    ("POST", "/receive_heart_beat"): {200: Answer(controller.HeartBeatReply)},
    ("POST", "/list_models"): {200: Answer(controller.ModelList)},
    ("POST", "/list_language_models"): {200: Answer(controller.ModelList)},
    ("POST", "/list_multimodal_models"): {200: Answer(controller.ModelList)},
    ("POST", "/get_worker_address"): {200: Answer(controller.WorkerAddress)},
    ("POST", "/worker_get_status"): {200: Answer(controller.WorkerStatus)},
    ("POST", "/worker_generate_stream"): {200: Answer(None, ("application/octet-stream",))},
    ("GET", "/api/status"): {200: Answer(admin.DaemonStatus)},
    ("GET", "/api/settings"): {200: Answer(SettingsAnswer)},
    ("GET", "/api/workers"): {200: Answer(admin.WorkerList)},
    ("POST", "/api/workers"): {202: Answer(admin.WorkerInfo)},
    ("POST", "/api/workers/attach"): {200: Answer(admin.WorkerInfo)},
    ("GET", "/api/workers/{name}/log"): {200: Answer(admin.LogLines)},
    ("GET", "/api/devices"): {200: Answer(devices.DeviceList)},
    ("GET", "/api/heads"): {200: Answer(neighbours.HeadList)},
    ("POST", "/api/heads"): {200: Answer(neighbours.Head)},
    ("GET", "/api/models"): {200: Answer(admin.ModelInfoList)},
    ("POST", "/api/models/load"): {200: Answer(admin.LoadEvent, (EVENTS,))},
    ("POST", "/api/models/estimate"): {200: Answer(admin.EstimateReply)},
    ("GET", "/api/downloads"): {200: Answer(downloads.DownloadList)},
    ("POST", "/api/downloads"): {202: Answer(downloads.Download)},
    ("GET", "/api/events"): {200: Answer(admin.DaemonEvent, (EVENTS,))},
    ("GET", "/api/logs"): {200: Answer(admin.LogLines)},
    ("GET", "/api/keys"): {200: Answer(access.CredentialList)},
    ("POST", "/api/keys"): {200: Answer(access.CreatedCredential)},
    ("DELETE", "/api/keys/{id}"): {200: Answer(access.CredentialInfo)},
    ("GET", "/api/tokens"): {200: Answer(access.CredentialList)},
    ("POST", "/api/tokens"): {200: Answer(access.CreatedCredential)},
    ("DELETE", "/api/tokens/{id}"): {200: Answer(access.CredentialInfo)},
    ("GET", "/api/battles"): {200: Answer(arena.BattleList)},
    ("POST", "/api/battles"): {201: Answer(arena.BattleInfo)},
    ("GET", "/api/battles/{id}"): {200: Answer(arena.BattleInfo)},
    ("GET", "/api/battles/{id}/events"): {200: Answer(arena.BattleEvent, (EVENTS,))},
    ("POST", "/api/battles/{id}/turns"): {200: Answer(arena.BattleEvent, (EVENTS,))},
    ("POST", "/api/battles/{id}/regenerate"): {200: Answer(arena.BattleEvent, (EVENTS,))},
    ("GET", "/api/leaderboard"): {200: Answer(arena.Leaderboard)},
    ("GET", "/api/head-to-head"): {200: Answer(arena.HeadToHead)},
    ("GET", "/api/votes"): {200: Answer(arena.VoteList)},
    ("GET", "/api/pairs"): {200: Answer(arena.PairList)},
    ("GET", "/api/voters"): {200: Answer(arena.VoterList)},
    ("GET", "/api/arena/export"): {200: Answer(None, (JSON, "text/csv", "application/x-ndjson"))},
    ("GET", "/api/chats"): {200: Answer(chats.ChatList)},
    ("POST", "/api/chats"): {201: Answer(chats.ChatInfo)},
    ("GET", "/api/chats/search"): {200: Answer(chats.ChatHits)},
    ("GET", "/api/chats/export"): {200: Answer(None, (JSON, "text/markdown"))},
    ("POST", "/api/chats/import"): {200: Answer(chats.ChatImportReport)},
    ("GET", "/api/chats/{id}"): {200: Answer(chats.ChatTree)},
    ("PATCH", "/api/chats/{id}"): {200: Answer(chats.ChatInfo)},
    ("DELETE", "/api/chats/{id}"): {200: Answer(chats.ChatInfo)},
    ("POST", "/api/chats/{id}/restore"): {200: Answer(chats.ChatInfo)},
    ("GET", "/api/chats/{id}/messages"): {200: Answer(chats.MessageList)},
    ("GET", "/api/chats/{id}/messages/{message}"): {200: Answer(chats.ChatMessage)},
    ("POST", "/api/chats/{id}/choose"): {200: Answer(chats.ChatTree)},
    ("PUT", "/api/chats/{id}/log"): {200: Answer(chats.ChatInfo)},
    ("POST", "/api/chats/{id}/generate"): {202: Answer(chats.Generation)},
    ("GET", "/api/chats/{id}/stream"): {200: Answer(chats.ChatEvent, (EVENTS,))},
    ("POST", "/api/chats/{id}/queue"): {202: Answer(chats.ChatQueue)},
    ("DELETE", "/api/chats/{id}/queue"): {200: Answer(chats.ChatQueue)},
    ("DELETE", "/api/chats/{id}/queue/{question}"): {200: Answer(chats.ChatQueue)},
    ("POST", "/api/chats/{id}/stop"): {200: Answer(chats.ChatTree)},
    ("GET", "/api/presets"): {200: Answer(chats.PresetList)},
    ("PUT", "/api/presets/{name}"): {200: Answer(chats.NamedPreset)},
    ("GET", "/metrics"): {200: Answer(str, (TEXT,))},
    ("GET", "/docs"): {200: Answer(str, ("text/html",))},
    ("GET", "/ready"): {200: Answer(), 503: Answer()},
}
_QUERIES: Mapping[tuple[str, str], Mapping[str, Mapping[str, Any]]] = {
    ("GET", "/api/logs"): _LINES,
    ("GET", "/api/workers/{name}/log"): _LINES,
    ("GET", "/tokenizer_info"): {"model": {"type": "string", "minLength": 1, "maxLength": 512}},
    ("GET", "/api/battles"): {"limit": {"type": "integer", "minimum": 1, "maximum": 500, "default": 50}},
    ("GET", "/api/chats"): {**_PAGE, "deleted": {"type": "boolean", "default": False}},
    ("GET", "/api/chats/{id}/messages"): _PAGE,
    ("GET", "/api/chats/search"): {
        "q": {"type": "string", "minLength": 1, "maxLength": 1000},
        "limit": {"type": "integer", "minimum": 1, "maximum": 500, "default": 50},
    },
    ("GET", "/api/chats/export"): {
        "format": {"type": "string", "enum": ["json", "markdown", "sharegpt", "fastchat"], "default": "json"},
        "ids": {"type": "string"},
    },
    ("GET", "/api/chats/{id}/stream"): {
        "message": {"type": "string", "maxLength": 64},
        "cursor": {"type": "string", "pattern": "^[0-9]{1,9}[.][0-9]{1,9}$"},
    },
}


def operations() -> list[Operation]:
    """Every route, in the order of the manual."""
    found = []
    for group, _, routes in ROUTES:
        for route in routes:
            for method in route.methods.split():
                key = (method, route.path)
                need = need_of(route.path)
                if need is None:
                    raise ValueError(f"{route.path} is in the manual and not in the table of access.")
                found.append(
                    Operation(
                        method=method,
                        path=route.path,
                        summary=route.summary,
                        group=group,
                        need=need,
                        body=_BODIES.get(key),
                        answers=_ANSWERS.get(key, {200: Answer()}),
                        query=_QUERIES.get(key, {}),
                        loose=need in (Need.CONTROLLER, Need.JOIN),
                    )
                )
    return found
