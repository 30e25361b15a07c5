"""Conversations over real sockets: the daemon writes by itself, and whoever follows gets each character once."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from daemon.chats import chats as chats_module
from daemon.store import chat_search
from fcd import chatlog
from fcd.chattree import Tree
from fcd.client import Client
from fcd.errors import ApiError, NotFound
from fcd.paths import resolve_paths
from fcd.wire.chats import (
    Attachment,
    ChatEvent,
    ChatMessage,
    CreateChat,
    GenerateRequest,
    LogMessage,
    PatchChat,
    Preset,
    PutLog,
)
from tests.daemon.arena.harness import ArenaDaemon, Script, arena_daemon
from tests.daemon.harness import run, until
from tests.image_files import data_url, png

TEXT = "It depends on the question, and on who asks. " * 8


def scripts(**options: object) -> dict[str, Script]:
    return {"guide": Script(text=TEXT, **options), "other": Script(text="Another.")}  # type: ignore[arg-type]


async def begin(client: Client, prompt: str = "Why?", **fields: object) -> tuple[str, str, str]:
    """A conversation with its first question: ids of it, the question and the answer."""
    info = await client.create_chat(CreateChat("guide", "Be brief.", {"temperature": 0.5}))
    made = await client.generate(info.id, GenerateRequest(prompt, **fields))  # type: ignore[arg-type]
    return info.id, made.question.id, made.answer.id


async def followed(client: Client, chat: str, message: str = "", cursor: str = "") -> list[ChatEvent]:
    async with asyncio.timeout(20):
        return [event async for event in client.chat_stream(chat, message, cursor)]


def text_of(events: list[ChatEvent], text: str = "") -> str:
    for event in events:
        if event.type == "message":
            assert event.message is not None
            text = event.message.content
        text += event.text
    return text


async def shown(client: Client, chat: str) -> list[tuple[str, str]]:
    return [(each.role, each.content) for each in Tree((await client.chat_tree(chat)).messages).path()]


async def ended(client: Client, chat: str) -> ChatMessage:
    """The last message that is shown, once nothing is written any more."""
    await followed(client, chat)
    return Tree((await client.chat_tree(chat)).messages).path()[-1]


def test_an_answer_is_written_by_the_daemon_and_kept() -> None:
    async def main() -> None:
        async with arena_daemon(scripts()) as daemon:
            chat, question, answer = await begin(daemon.client)
            events = await followed(daemon.client, chat, answer)
            assert text_of(events) == TEXT
            assert events[-1].type == "end"
            tree = await daemon.client.chat_tree(chat)
            assert [(each.id, each.parent, each.chosen) for each in tree.messages] == [
                (question, "", True),
                (answer, question, True),
            ]
            last = tree.messages[-1]
            assert (last.state, last.content, last.prompt_tokens, last.counted) == ("done", TEXT, 7, True)
            assert last.ttft_s > 0
            assert last.seconds > 0
            asked = daemon.scripts["guide"].asked[0]
            assert asked["messages"] == [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Why?"},
            ]
            assert asked["temperature"] == 0.5
            assert tree.chat.title == "Why?"
            assert await text_again(daemon.client, chat, answer) == TEXT

    async def text_again(client: Client, chat: str, answer: str) -> str:
        return text_of(await followed(client, chat, answer))

    run(main())


def test_it_goes_on_without_its_client_and_is_resumed_exactly() -> None:
    async def main() -> None:
        hold = asyncio.Event()
        async with arena_daemon(scripts(hold=hold)) as daemon:
            chat, _, answer = await begin(daemon.client)
            seen, cursor = "", ""
            async for event in daemon.client.chat_stream(chat, answer):
                seen, cursor = text_of([event], seen), event.cursor
                if len(seen) >= 20:
                    break
            assert TEXT.startswith(seen)
            half = len(TEXT) // 2

            async def much() -> bool:
                return len((await daemon.client.chat_tree(chat)).messages[-1].content) >= half

            async with asyncio.timeout(10):
                while not await much():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert (await daemon.client.chats()).chats[0].running == answer
            two = [asyncio.ensure_future(followed(daemon.client, chat, answer, cursor)) for _ in range(2)]
            hold.set()
            for events in await asyncio.gather(*two):
                assert [event.type for event in events[:-1]] == ["delta"] * (len(events) - 1)
                assert text_of(events, seen) == TEXT
            assert text_of(await followed(daemon.client, chat, answer, cursor), seen) == TEXT

    run(main())


@pytest.mark.parametrize("way", ["stop", "delete", "daemon"])
def test_what_is_ended_early_keeps_what_came(way: str, tmp_path: Path) -> None:
    async def main() -> None:
        hold = asyncio.Event()
        async with arena_daemon(scripts(hold=hold), home=tmp_path) as daemon:
            chat, _, answer = await begin(daemon.client)
            async for event in daemon.client.chat_stream(chat, answer):
                if "depends" in text_of([event]) or event.cursor > "0.2":
                    break
            with pytest.raises(ApiError) as busy:
                await daemon.client.generate(chat, GenerateRequest("Another?"))
            assert (busy.value.status, busy.value.code) == (409, "chat_busy")
            if way == "stop":
                tree = await daemon.client.stop_chat(chat)
                assert (tree.messages[-1].state, tree.chat.running) == ("stopped", "")
                assert tree.messages[-1].content
            elif way == "delete":
                await daemon.client.delete_chat(chat)
                with pytest.raises(ApiError) as gone:
                    await daemon.client.chat_tree(chat)
                assert gone.value.status == 404
                assert (await daemon.client.chats()).total == 0
                assert (await daemon.client.chats(deleted=True)).total == 1
                await daemon.client.restore_chat(chat)
                assert (await daemon.client.chat_tree(chat)).messages[-1].state == "stopped"
        async with arena_daemon(scripts(), home=tmp_path) as daemon:
            last = (await daemon.client.chat_tree(chat)).messages[-1]
            assert last.state == ("interrupted" if way == "daemon" else "stopped")
            assert last.content
            assert TEXT.startswith(last.content)

    run(main())


@pytest.mark.parametrize("fails", [False, True])
def test_a_stop_while_the_question_is_being_put_on_disk_stops_it(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    async def main() -> None:
        async with arena_daemon(scripts(hold=asyncio.Event())) as daemon:
            chat = (await daemon.client.create_chat(CreateChat("alpha"))).id
            reached, go = threading.Event(), threading.Event()
            enter = chats_module._enter

            def slow(*args: Any) -> Any:
                reached.set()
                go.wait(10)
                if fails:
                    raise NotFound("It is gone.")
                return enter(*args)

            monkeypatch.setattr(chats_module, "_enter", slow)
            asking = asyncio.ensure_future(daemon.client.generate(chat, GenerateRequest("Why?")))
            await asyncio.to_thread(reached.wait, 10)
            stopping = asyncio.ensure_future(daemon.client.stop_chat(chat))
            await asyncio.sleep(0.2)
            assert not stopping.done()
            go.set()
            tree = await asyncio.wait_for(stopping, 10)
            assert tree.chat.running == ""
            assert [message.state for message in tree.messages[1:]] == ([] if fails else ["stopped"])
            await asyncio.wait((asking,))

    run(main())


def test_stopping_it_several_times_at_once_ends_it_once() -> None:
    async def main() -> None:
        async with arena_daemon(scripts(hold=asyncio.Event())) as daemon:
            chat, question, answer = await begin(daemon.client)
            async for event in daemon.client.chat_stream(chat, answer):
                if "depends" in text_of([event]) or event.cursor > "0.2":
                    break
            async with asyncio.timeout(20):
                for tree in await asyncio.gather(*(daemon.client.stop_chat(chat) for _ in range(4))):
                    assert (tree.messages[-1].state, tree.chat.running) == ("stopped", "")
                await daemon.client.generate(chat, GenerateRequest(again=question))
                await daemon.client.stop_chat(chat)  # it may not have asked anybody yet
            tree = await daemon.client.chat_tree(chat)
            assert (tree.messages[-1].state, tree.chat.running) == ("stopped", "")

    run(main())


def test_a_failed_answer_says_why_and_can_be_asked_again() -> None:
    async def main() -> None:
        models = {"guide": Script(fails="Out of memory: it needs 14 GiB.")}
        async with arena_daemon(models) as daemon:
            chat, question, _ = await begin(daemon.client)
            last = await ended(daemon.client, chat)
            assert (last.state, last.error_code) == ("failed", "out_of_memory")
            assert "14 GiB" in last.error
            models["guide"].fails = ""
            await daemon.client.generate(chat, GenerateRequest(again=question))
            assert (await ended(daemon.client, chat)).state == "done"
            await daemon.client.patch_chat(chat, PatchChat(model="nobody"))
            await daemon.client.generate(chat, GenerateRequest("More?"))
            assert (await ended(daemon.client, chat)).error_code == "model_not_found"

    run(main())


def test_variants_and_branches() -> None:
    async def main() -> None:
        async with arena_daemon(scripts()) as daemon:
            client = daemon.client
            chat, question, first = await begin(client)
            await ended(client, chat)
            await client.patch_chat(chat, PatchChat(model="other"))
            second = (await client.generate(chat, GenerateRequest(again=question))).answer.id
            await ended(client, chat)
            await client.generate(chat, GenerateRequest("And then?"))
            await ended(client, chat)
            assert [each["content"] for each in daemon.scripts["other"].asked[1]["messages"]] == [
                "Be brief.", "Why?", "Another.", "And then?",
            ]  # fmt: skip
            tree = await client.choose_message(chat, first)
            assert [each.id for each in Tree(tree.messages).path()] == [question, first]
            tree = await client.choose_message(chat, second)
            assert len(Tree(tree.messages).path()) == 4, "what was chosen below comes back"
            edited = await client.generate(chat, GenerateRequest("How?", parent=""))
            await ended(client, chat)
            tree = await client.chat_tree(chat)
            path = Tree(tree.messages).path()
            assert [each.content for each in path] == ["How?", "Another."]
            assert Tree(tree.messages).place(path[0]) == (1, 2)
            assert edited.question.parent == ""
            with pytest.raises(ApiError) as wrong:
                await client.generate(chat, GenerateRequest(again=second))
            assert wrong.value.param == "again"
            with pytest.raises(ApiError) as missing:
                await client.choose_message(chat, "nothing")
            assert missing.value.status == 404

    run(main())


def test_attachments_go_with_the_question_and_with_its_edits() -> None:
    async def main() -> None:
        async with arena_daemon(scripts()) as daemon:
            client = daemon.client
            attached = [
                Attachment("a.py", data="x = '```'\n", size=10),
                Attachment("b.png", "image/png", data_url(png()), 3),
            ]
            chat, question, _ = await begin(client, "What?", attachments=attached)
            await ended(client, chat)
            content = daemon.scripts["guide"].asked[0]["messages"][1]["content"]
            assert content[0]["text"] == "What?\n\na.py:\n\n````py\nx = '```'\n````"
            assert content[1]["image_url"]["url"] == data_url(png())
            listed = (await client.chat_tree(chat)).messages[0].attachments
            assert [(each.name, each.size, each.data) for each in listed] == [("a.py", 10, ""), ("b.png", 3, "")]
            assert (await client.chat_message(chat, question)).attachments[0].data == "x = '```'\n"
            await client.generate(chat, GenerateRequest("Which?", parent="", keep_attachments=question))
            await ended(client, chat)
            assert len(daemon.scripts["guide"].asked[1]["messages"][1]["content"]) == 2
            bad = [Attachment("c.png", "image/png", "http://elsewhere/c.png", 3)]
            with pytest.raises(ApiError) as wrong:
                await client.generate(chat, GenerateRequest("No", attachments=bad))
            assert wrong.value.param == "attachments[0].data"

    run(main())


def test_listing_naming_pinning_searching() -> None:
    async def main() -> None:
        async with arena_daemon(scripts()) as daemon:
            client = daemon.client
            names = []
            for words in ("about otters", "über Stoats", "日本語のテキスト"):
                chat, *_ = await begin(client, words)
                await ended(client, chat)
                names.append(chat)
            await client.patch_chat(names[0], PatchChat(title="Rivers", pinned=True))
            found = (await client.chats(limit=2)).chats
            assert [each.id for each in found] == [names[0], names[2]]
            assert (found[0].title, found[0].named, found[0].pinned, found[0].messages) == ("Rivers", True, True, 2)
            assert [each.id for each in (await client.chats(limit=2, offset=2)).chats] == [names[1]]

            async def search(words: str) -> list[str]:
                return [hit.chat.id for hit in (await client.search_chats(words)).hits]

            assert await search("otte") == [names[0]]
            assert await search("uber STOATS") == [names[1]]
            assert await search("テキスト") == [names[2]]
            assert await search("river") == [names[0]]
            assert set(await search("question depends")) == set(names)
            assert await search('100% nothing_like\\this "AND NOT') == []
            assert await search("\0") == []
            assert await search("uber\0STOATS") == [names[1]], "a NUL ends SQLite's texts, and no query"
            await client.patch_chat(names[0], PatchChat(title=""))
            assert await search("river") == []
            await client.delete_chat(names[0])
            assert await search("otters") == []
            await daemon.context.store.run(lambda db: db.execute("DROP TABLE chat_words"))
            hits = await client.search_chats("stoats")
            assert ([hit.chat.id for hit in hits.hits], hits.method) == ([names[1]], "like")
            await daemon.context.store.run(chat_search.prepare)
            hits = await client.search_chats("stoats")
            assert ([hit.chat.id for hit in hits.hits], hits.method) == ([names[1]], "fts5")

    run(main())


def test_searching_finds_what_stands_only_in_an_attached_file() -> None:
    async def main() -> None:
        async with arena_daemon(scripts()) as daemon:
            client, store = daemon.client, daemon.context.store
            notes = Attachment("notes.txt", "text/plain", "Wolverines sleep in dens.", 25)
            data = data_url(png(2, 1))
            image = Attachment("dens.png", "image/png", data, 70)
            chat, *_ = await begin(client, "What is in it?", attachments=[notes, image])
            await ended(client, chat)

            async def check(method: str) -> None:
                for words in ("wolverines", "notes.txt", "dens.png", "wolverines what"):
                    found = await client.search_chats(words)
                    assert ([hit.chat.id for hit in found.hits], found.method) == ([chat], method), words
                assert "Wolverines" in (await client.search_chats("wolverines")).hits[0].excerpt
                assert (await client.search_chats(data[30:50])).hits == []

            await check("fts5")
            await store.run(lambda db: db.execute("DROP TABLE chat_words"))
            await check("like")
            await store.run(chat_search.prepare)
            await check("fts5")
            # An index of former versions has as many rows, of what was said alone.
            await store.run(lambda db: db.execute("DELETE FROM chat_facts WHERE name = 'search'"))
            await store.run(lambda db: db.execute("UPDATE chat_words SET body = 'what is in it' WHERE message <> ''"))
            await store.run(chat_search.prepare)
            await check("fts5")

    run(main())


def test_presets() -> None:
    async def main() -> None:
        async with arena_daemon(scripts()) as daemon:
            client = daemon.client
            await client.put_preset("terse / dry", Preset("Be terse.", {"temperature": 0.1}))
            await client.put_preset("terse / dry", Preset("Be terser."))
            assert [(each.name, each.system) for each in await client.presets()] == [("terse / dry", "Be terser.")]
            await client.delete_preset("terse / dry")
            with pytest.raises(ApiError) as gone:
                await client.delete_preset("terse / dry")
            assert gone.value.status == 404
            with pytest.raises(ApiError) as wrong:
                await client.put_preset("x", Preset(params={"messages": []}))
            assert wrong.value.param == "params.messages"

    run(main())


def test_a_conversation_led_elsewhere_lands_here_and_its_turns_become_branches() -> None:
    async def main() -> None:
        async with arena_daemon(scripts()) as daemon:
            client = daemon.client
            said = [LogMessage("user", "one?"), LogMessage("assistant", "One.", model="guide", tokens=3, seconds=1.0)]
            for _ in range(2):
                await client.put_chat_log("20260101-000000-abc", PutLog("guide", "Be kind.", {}, said))
            assert len((await client.chat_tree("20260101-000000-abc")).messages) == 2
            other = [said[0], LogMessage("assistant", "Uno.", partial=True)]
            await client.put_chat_log("20260101-000000-abc", PutLog("guide", "", {}, other))
            tree = await client.chat_tree("20260101-000000-abc")
            assert [each.content for each in tree.messages] == ["one?", "One.", "Uno."]
            assert await shown(client, tree.chat.id) == [("user", "one?"), ("assistant", "Uno.")]
            await client.put_chat_log("20260101-000000-abc", PutLog("guide", "", {}, said[:1]))
            assert await shown(client, tree.chat.id) == [("user", "one?")]
            await client.generate(tree.chat.id, GenerateRequest(again=tree.messages[0].id))
            await ended(client, tree.chat.id)
            with pytest.raises(ApiError):
                await client.put_chat_log("../x", PutLog())

    run(main())


def test_files_of_former_versions_come_once_and_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.store.chats.MOST_MESSAGES", 4)
    folder = resolve_paths({"FCD_HOME": str(tmp_path)}).data / "chats"
    folder.mkdir(parents=True)
    log = chatlog.new_chat("guide", "Be kind.", {"temperature": 0.5})
    log.ask("one?")
    log.messages.append(chatlog.ChatMessage("assistant", "Second.", model="guide"))
    log.ask("two?")
    variants = [{"question": "one?", "text": text, "state": "done"} for text in ("First.", "Second.")]
    log.turns = [{"variants": variants, "chosen": 1}]
    chatlog.save_chat(log, folder / f"{log.id}.json")
    (folder / "broken.json").write_text("{")
    long = chatlog.new_chat("guide")
    for number in range(5):
        long.ask(f"{number}?")
    chatlog.save_chat(long, folder / "0-too-long.json")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    async def main() -> None:
        for _ in range(2):
            async with arena_daemon(scripts(), home=tmp_path) as daemon:
                found = await daemon.client.chats()
                assert [(each.id, each.title, each.system) for each in found.chats] == [(log.id, "one?", "Be kind.")]
                tree = await daemon.client.chat_tree(log.id)
                assert [each.content for each in tree.messages] == ["one?", "First.", "Second.", "two?"]
                assert [each.content for each in Tree(tree.messages).path()] == ["one?", "Second.", "two?"]
                await daemon.client.patch_chat(log.id, PatchChat(pinned=True))

    run(main())
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_the_chosen_one_is_one_by_the_database_itself(tmp_path: Path) -> None:
    async def main() -> None:
        async with arena_daemon(scripts(), home=tmp_path) as daemon:
            chat, question, _ = await begin(daemon.client)
            await ended(daemon.client, chat)
            await daemon.client.generate(chat, GenerateRequest(again=question))
            await ended(daemon.client, chat)

            def both(db: sqlite3.Connection) -> None:
                db.execute("UPDATE chat_messages SET chosen = 1")

            with pytest.raises(sqlite3.IntegrityError):
                await daemon.context.store.run(both)

    run(main())


def test_what_cannot_be_used_is_refused_by_name() -> None:
    async def main() -> None:
        async with arena_daemon(scripts()) as daemon:
            client = daemon.client
            chat, _, answer = await begin(client)
            await ended(client, chat)
            for path, body, param in (
                (f"/api/chats/{chat}/generate", {}, "prompt"),
                (f"/api/chats/{chat}/generate", {"prompt": "x", "again": "y"}, "again"),
                (f"/api/chats/{chat}/generate", {"prompt": "x", "temperature": 1}, "temperature"),
                ("/api/chats", {"params": {"stream": True}}, "params.stream"),
                ("/api/chats", {"title": "x" * 201}, "title"),
                (f"/api/chats/{chat}/choose", {}, "message"),
            ):
                with pytest.raises(ApiError) as wrong:
                    await client.json("POST", path, body)
                assert (wrong.value.status, wrong.value.param) == (400, param), (path, body)
            for cursor in ("1", "a.b", "-1.0", "9999999999.0"):
                with pytest.raises(ApiError) as wrong:
                    await followed(client, chat, answer, cursor)
                assert wrong.value.param == "cursor"
            with pytest.raises(ApiError) as gone:
                await followed(client, "nowhere")
            assert gone.value.status == 404
            assert [event.type for event in await followed(client, chat)] == ["idle"]
            with pytest.raises(ApiError) as shut:
                await daemon.someone().chats()
            assert shut.value.status == 401

    run(main())


def test_watchers_are_told() -> None:
    class Hub:
        def __init__(self) -> None:
            self.told: list[str] = []

        def publish(self, event: object) -> None:
            self.told.append(event.message)  # type: ignore[attr-defined]

    async def main() -> None:
        async with arena_daemon(scripts()) as daemon:
            hub = daemon.controller.hub = Hub()  # type: ignore[attr-defined]
            chat, *_ = await begin(daemon.client)
            await ended(daemon.client, chat)
            await until(lambda: "ended" in hub.told)
            await daemon.client.patch_chat(chat, PatchChat(title="x"))
            await daemon.client.delete_chat(chat)
            await daemon.client.restore_chat(chat)
            assert hub.told == ["created", "generating", "ended", "changed", "deleted", "created"]

    run(main())


async def export(daemon: ArenaDaemon, form: str, *chats: str) -> str:
    return b"".join([piece async for piece in daemon.client.export_chats(form, chats)]).decode()  # type: ignore[arg-type]


def test_thoughts_are_kept_apart() -> None:
    async def main() -> None:
        async with arena_daemon({"guide": Script(text="<think>so it is</think>\n\nBecause.", piece=3)}) as daemon:
            chat, _, answer = await begin(daemon.client)
            events = await followed(daemon.client, chat, answer)
            last = (await daemon.client.chat_tree(chat)).messages[-1]
            assert (last.reasoning, last.content) == ("so it is", "Because.")
            assert text_of(events) == "Because."
            assert json.loads(await export(daemon, "json", chat))["chats"][0]["messages"][1]["reasoning"] == "so it is"

    run(main())
