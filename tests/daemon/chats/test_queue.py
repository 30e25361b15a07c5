"""Questions that wait in the daemon for their turn."""

from __future__ import annotations

import asyncio

import pytest

from fcd.client import Client
from fcd.errors import ApiError
from fcd.wire.chats import MAX_QUEUED, Attachment, ChatTree, CreateChat, GenerateRequest, QueueRequest
from tests.daemon.arena.harness import Script, arena_daemon
from tests.daemon.chats.test_chats import begin, scripts, shown
from tests.daemon.harness import run


async def settled(client: Client, chat: str, questions: int) -> ChatTree:
    """The conversation once so many questions have an answer that is over."""
    async with asyncio.timeout(20):
        while True:
            tree = await client.chat_tree(chat)
            if len(tree.messages) >= 2 * questions and not tree.chat.running:
                return tree
            await asyncio.sleep(0.02)


def waiting(tree: ChatTree) -> list[str]:
    return [each.prompt for each in tree.queue]


def test_what_waits_is_asked_in_turn_without_any_client() -> None:
    async def main() -> None:
        hold = asyncio.Event()
        async with arena_daemon(scripts(hold=hold)) as daemon:
            chat, _, _ = await begin(daemon.client, "One?")
            note = Attachment("a.txt", data="otters", size=6)
            await daemon.client.queue_question(chat, QueueRequest("Two?", [note]))
            queued = await daemon.client.queue_question(chat, QueueRequest("Three?"))
            assert [each.prompt for each in queued.queue] == ["Two?", "Three?"]
            assert [(each.name, each.data) for each in queued.queue[0].attachments] == [("a.txt", "")]
            hold.set()
            tree = await settled(daemon.client, chat, 3)
            assert waiting(tree) == []
            said = await shown(daemon.client, chat)
            assert [text for role, text in said if role == "user"] == ["One?", "Two?", "Three?"]
            assert "otters" in str(daemon.scripts["guide"].asked[1]["messages"][-1]["content"])

    run(main())


def test_what_is_queued_while_nothing_is_written_is_asked_at_once() -> None:
    async def main() -> None:
        async with arena_daemon(scripts()) as daemon:
            info = await daemon.client.create_chat(CreateChat("guide"))
            assert (await daemon.client.queue_question(info.id, QueueRequest("Now?"))).queue == []
            await settled(daemon.client, info.id, 1)

    run(main())


def test_a_stop_holds_the_queue_and_it_can_be_taken_back() -> None:
    async def main() -> None:
        hold = asyncio.Event()
        async with arena_daemon(scripts(hold=hold)) as daemon:
            chat, _, _ = await begin(daemon.client, "One?")
            note = Attachment("a.txt", data="otters", size=6)
            for asked in (QueueRequest("Two?", [note]), QueueRequest("Three?")):
                await daemon.client.queue_question(chat, asked)
            tree = await daemon.client.stop_chat(chat)
            assert (waiting(tree), tree.chat.running) == (["Two?", "Three?"], "")
            two = tree.queue[0]
            taken = (await daemon.client.take_back(chat, two.id)).queue
            assert [(each.prompt, each.attachments[0].data) for each in taken] == [("Two?", "otters")]
            with pytest.raises(ApiError) as refused:
                await daemon.client.take_back(chat, two.id)
            assert refused.value.status == 404
            hold.set()
            await daemon.client.generate(chat, GenerateRequest("Four?"))
            tree = await settled(daemon.client, chat, 3)
            assert waiting(tree) == []
            assert (await daemon.client.take_back(chat)).queue == []

    run(main())


def test_a_failure_holds_the_queue() -> None:
    async def main() -> None:
        failing = Script(fails="No memory is left.")
        async with arena_daemon({"guide": failing, "other": Script(text="Another.")}) as daemon:
            chat, _, _ = await begin(daemon.client, "One?")
            tree = await settled(daemon.client, chat, 1)
            assert tree.messages[-1].state == "failed"
            failing.fails = ""
            await daemon.client.queue_question(chat, QueueRequest("Two?"))
            tree = await settled(daemon.client, chat, 2)
            assert (tree.messages[-1].state, waiting(tree)) == ("done", [])

    run(main())


def test_the_queue_is_bounded_and_what_asks_nothing_is_refused() -> None:
    async def main() -> None:
        async with arena_daemon(scripts(hold=asyncio.Event())) as daemon:
            chat, _, _ = await begin(daemon.client, "One?")
            for number in range(MAX_QUEUED):
                await daemon.client.queue_question(chat, QueueRequest(f"{number}?"))
            with pytest.raises(ApiError) as refused:
                await daemon.client.queue_question(chat, QueueRequest("More?"))
            assert (refused.value.status, refused.value.code) == (409, "queue_full")
            with pytest.raises(ApiError) as refused:
                await daemon.client.queue_question(chat, QueueRequest(" "))
            assert refused.value.param == "prompt"
            await daemon.client.delete_chat(chat)
            with pytest.raises(ApiError) as refused:
                await daemon.client.queue_question(chat, QueueRequest("Gone?"))
            assert refused.value.status == 404

    run(main())
