"""Conversations as files: what goes out comes in again, known ones come once, and what is none is refused with why."""

from __future__ import annotations

import json
from typing import Any

import pytest

from daemon.chats import routes
from fcd import chatlog
from fcd.chattree import Tree
from fcd.client import Client
from fcd.errors import ApiError
from fcd.wire.chats import Attachment, ChatImportReport, GenerateRequest, PatchChat
from tests.daemon.arena.harness import Script, arena_daemon
from tests.daemon.chats.test_chats import begin, ended, export, shown
from tests.daemon.harness import run
from tests.image_files import data_url, png

MODELS = {"guide": Script(text="It depends.")}


def node(parent: str, role: str, text: str, *children: str, **more: Any) -> dict[str, Any]:
    message = {
        "author": {"role": role},
        "content": {"content_type": more.get("kind", "text"), "parts": [text]},
        "create_time": 1700000000.5,
        "metadata": {"model_slug": "gpt-4o"} if role == "assistant" else {},
        "recipient": more.get("recipient", "all"),
    }
    return {"message": message, "parent": parent, "children": list(children)}


CHATGPT = [
    {
        "title": "Rivers",
        "create_time": 1700000000.0,
        "update_time": 1700000100.0,
        "conversation_id": "abc",
        "current_node": "a2",
        "mapping": {
            "root": {"message": None, "parent": None, "children": ["s"]},
            "s": node("root", "system", "Be kind.", "q"),
            "q": node("s", "user", "Where?", "a1", "call"),
            "a1": node("q", "assistant", "There."),
            "call": node("q", "assistant", "search()", "tool", recipient="browser"),
            "tool": node("call", "tool", "results", "think"),
            "think": node("tool", "assistant", "hm", "a2", kind="thoughts"),
            "a2": node("think", "assistant", "Here."),
        },
    },
    {"title": "Empty", "mapping": {}},
]
SHAREGPT = [
    {"id": "s1", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello \ud83d"}]},
    {"conversations": [{"from": "system", "value": "S"}, {"role": "user", "content": "One"}]},
    {"conversations": [{"from": "human", "value": None}]},
]
FASTCHAT = {
    "template_name": "vicuna", "system_message": "Be vicuna.", "roles": ["USER", "ASSISTANT"], "offset": 2,
    "messages": [["USER", "example"], ["ASSISTANT", "example"], ["USER", "Hi"], ["ASSISTANT", "Ho"]],
}  # fmt: skip


async def taken(client: Client, value: Any) -> ChatImportReport:
    return await client.import_chats(value if isinstance(value, str) else json.dumps(value))


@pytest.mark.parametrize(
    ("value", "added", "refused", "lines"),
    [
        (CHATGPT, 1, 1, [("user", "Where?"), ("assistant", "Here.")]),
        (SHAREGPT[:1], 1, 0, [("user", "Hi"), ("assistant", "Hello ?")]),
        (SHAREGPT, 2, 1, None),
        ("\n".join(json.dumps(each) for each in SHAREGPT), 2, 1, None),
        (FASTCHAT, 1, 0, [("user", "Hi"), ("assistant", "Ho")]),
    ],
    ids=["chatgpt", "sharegpt", "several", "lines", "fastchat"],
)
def test_files_of_others(value: Any, added: int, refused: int, lines: Any) -> None:
    async def main() -> None:
        async with arena_daemon(MODELS) as daemon:
            report = await taken(daemon.client, value)
            assert (report.added, report.duplicates, report.refused) == (added, 0, refused)
            assert sum(report.reasons.values()) == refused
            if lines is not None:
                assert await shown(daemon.client, report.chats[0]) == lines
            again = await taken(daemon.client, value)
            assert (again.added, again.duplicates, again.refused) == (0, added, refused)

    run(main())


def test_chatgpt_s_branches_and_settings() -> None:
    async def main() -> None:
        async with arena_daemon(MODELS) as daemon:
            tree = await daemon.client.chat_tree((await taken(daemon.client, CHATGPT)).chats[0])
            assert (tree.chat.title, tree.chat.system, tree.chat.model) == ("Rivers", "Be kind.", "gpt-4o")
            assert (tree.chat.created_at, tree.chat.updated_at) == (1700000000.0, 1700000100.0)
            answers = [each for each in tree.messages if each.role == "assistant"]
            assert {each.content: each.chosen for each in answers} == {"There.": False, "Here.": True}
            assert Tree(tree.messages).place(answers[0]).of == 2

    run(main())


def test_our_own_file_holds_everything() -> None:
    async def main() -> None:
        async with arena_daemon(MODELS) as one, arena_daemon(MODELS) as two:
            attached = [Attachment("a.png", "image/png", data_url(png()), 3, 4, 4)]
            chat, question, _ = await begin(one.client, "Why?", attachments=attached)
            await ended(one.client, chat)
            await one.client.generate(chat, GenerateRequest(again=question))
            await ended(one.client, chat)
            await one.client.patch_chat(chat, PatchChat(title="Named", pinned=True))
            text = await export(one, "json", chat)
            assert (await taken(one.client, text)).duplicates == 1
            assert (await taken(two.client, text)).chats == [chat]
            assert (await taken(two.client, text)).duplicates == 1
            here, there = await one.client.chat_tree(chat), await two.client.chat_tree(chat)
            assert here.chat == there.chat
            assert [(each.content, each.chosen, each.state) for each in here.messages] == [
                (each.content, each.chosen, each.state) for each in there.messages
            ]
            full = await two.client.chat_message(chat, there.messages[0].id)
            assert full.attachments == attached

    run(main())


@pytest.mark.parametrize("form", ["sharegpt", "fastchat"])
def test_other_forms_go_round(form: str) -> None:
    async def main() -> None:
        async with arena_daemon(MODELS) as one, arena_daemon(MODELS) as two:
            chat, *_ = await begin(one.client)
            await ended(one.client, chat)
            report = await taken(two.client, await export(one, form, chat))
            assert await shown(two.client, report.chats[0]) == await shown(one.client, chat)
            assert (await two.client.chat_tree(report.chats[0])).chat.system == "Be brief."

    run(main())


def test_markdown_and_what_fcd_chat_saves() -> None:
    async def main() -> None:
        async with arena_daemon(MODELS) as daemon:
            chat, *_ = await begin(daemon.client)
            await ended(daemon.client, chat)
            text = await export(daemon, "markdown", chat)
            assert "# Why?" in text
            assert "## guide\n\nIt depends." in text
            log = chatlog.new_chat("guide")
            log.ask("one?")
            log.messages.append(chatlog.ChatMessage("assistant", "O", partial=True))
            saved = chatlog.msgspec.json.encode(log).decode()
            report = await taken(daemon.client, saved)
            assert report.chats == [log.id]
            assert (await taken(daemon.client, saved)).duplicates == 1
            assert (await daemon.client.chat_tree(log.id)).messages[-1].state == "stopped"

    run(main())


@pytest.mark.parametrize("data", ["", "no json", "[]", "{}", "3", '[{"x": 1}]', "[" * 100_000, '{"a": 1}\n{"b"'])
def test_what_is_no_file_of_chats(data: str) -> None:
    async def main() -> None:
        async with arena_daemon(MODELS) as daemon:
            with pytest.raises(ApiError) as wrong:
                await taken(daemon.client, data)
            assert (wrong.value.status, wrong.value.code) == (400, "unknown_format")
            assert (await daemon.client.chats()).total == 0

    run(main())


def asked(**fields: Any) -> dict[str, Any]:
    question = {"id": "1", "role": "user", "content": "x", "chosen": True, **fields}
    return {"chat": {"id": "a"}, "messages": [question]}


@pytest.mark.parametrize(
    "broken",
    [
        {"chat": {"id": "../../x"}, "messages": []},
        {"chat": {"id": "a"}, "messages": [{"id": "1", "role": "user", "parent": "9"}]},
        {"chat": {"id": "a"}, "messages": [{"id": "1", "role": "nobody"}]},
        {"chat": 3},
        {"chat": {"id": "a", "params": {"messages": []}}},
        {"chat": {"id": "a", "params": {"x": "\ud800"}}},
        {"chat": {"id": "a", "updated_at": float("inf")}},
        asked(created_at=float("nan")),
        asked(prompt_tokens=2**63),
        asked(prompt_tokens=2**70),
        asked(error="\ud800"),
        asked(attachments=[{"name": "a\ud800", "data": "x"}]),
        asked(attachments=[{"name": "a", "data": "x"}] * 17),
        asked(attachments=[{"name": "a", "media": "image/png", "data": "http://169.254.169.254/"}]),
    ],
)
def test_broken_ones_are_refused_and_the_others_taken(broken: Any) -> None:
    async def main() -> None:
        async with arena_daemon(MODELS) as daemon:
            good = {"chat": {"id": "good"}, "messages": [{"id": "1", "role": "user", "content": "x", "chosen": True}]}
            report = await taken(daemon.client, {"format": "fcd-chats-1", "chats": [broken, good]})
            assert (report.added, report.refused, report.chats) == (1, 1, ["good"])
            assert [info.id for info in (await daemon.client.chats()).chats] == ["good"]

    run(main())


def test_a_saved_chat_without_an_id_of_ours_does_not_keep_the_others_out() -> None:
    async def main() -> None:
        async with arena_daemon(MODELS) as daemon:
            logs = [chatlog.new_chat("guide"), chatlog.new_chat("guide")]
            for log in logs:
                log.ask("one?")
            logs[0].id = "../x"
            report = await taken(daemon.client, chatlog.msgspec.json.encode(logs).decode())
            assert (report.added, report.refused) == (1, 1)

    run(main())


def test_a_file_that_cannot_hold_all_chats_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(routes, "MOST_EXPORTED", 1)
        async with arena_daemon(MODELS) as daemon:
            assert (await taken(daemon.client, SHAREGPT[:2])).added == 2
            chats = [info.id for info in (await daemon.client.chats()).chats]
            with pytest.raises(ApiError, match="There are 2 chats") as refused:
                async for _ in daemon.client.export_chats("json"):
                    pass
            assert refused.value.status == 400
            assert [piece async for piece in daemon.client.export_chats("json", chats[:1])]

    run(main())
