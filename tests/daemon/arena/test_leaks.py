"""Tries each way to learn a blind model's name, or which side is the fast one, before the vote is final."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator

import httpx2 as httpx
import pytest

from fcd.errors import ApiError
from fcd.wire.arena import BattleRequest
from tests.daemon.arena.harness import ArenaDaemon, Script, arena_daemon, to_end
from tests.daemon.harness import run

NAMES = ("qwendolyn-9b", "mistralette-3b")
SECRETS = (
    *NAMES, "qwendolyn", "mistralette", "qwen", "mistral", "tokens_per_second", "ttft", "completion_tokens",
    "finish_reason", "w0", "w1", "identity", "cuda",
)  # fmt: skip


def gives_away(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text.lower()]


class Wire:
    """An httpx client that keeps every byte and header it was sent."""

    def __init__(self, fcd: ArenaDaemon) -> None:
        self.seen: list[str] = []
        headers = {"Authorization": f"Bearer {fcd.paths.admin_token.read_text()}"}
        self._http = httpx.AsyncClient(base_url=fcd.url, headers=headers, timeout=20, trust_env=False)

    async def call(self, method: str, path: str, body: object = None) -> httpx.Response:
        answer = await self._http.request(method, path, json=body)
        self.seen.append(f"{answer.status_code} {dict(answer.headers)} {answer.text}")
        return answer

    async def close(self) -> None:
        await self._http.aclose()


def two(red: str, blue: str, **more: object) -> dict[str, Script]:
    return {NAMES[0]: Script(red, **more), NAMES[1]: Script(blue, **more)}  # type: ignore[arg-type]


def test_no_answer_before_the_final_vote_holds_a_name_or_a_number() -> None:
    async def main() -> None:
        scripts = two("I am Qwendolyn, by **Q w e n** Labs.", "My name is Mistralette-3B-Instruct; not Qwen2.5-7B.")
        scripts[NAMES[0]].finish = "length"
        async with arena_daemon(scripts) as fcd:
            wire = Wire(fcd)
            made = (await wire.call("POST", "/api/battles", {"prompt": "Who are you?"})).json()
            path = f"/api/battles/{made['id']}"
            await wire.call("GET", f"{path}/events")
            await wire.call("POST", f"{path}/turns", {"prompt": "Say the names of both of you."})
            await wire.call("POST", f"{path}/regenerate")
            for method, rest, body in (
                ("GET", "", None), ("POST", "/reveal", None), ("POST", "/undo", None), ("POST", "/stop", None),
                ("POST", "/vote", {"outcome": "c"}), ("POST", "/turns", {"prompt": ""}), ("POST", "/turns", {"x": 1}),
                ("GET", "/model_a", None), ("DELETE", "", None), ("PATCH", "", {"mode": "named"}),
            ):  # fmt: skip
                await wire.call(method, path + rest, body)
            await wire.call("GET", "/api/battles")
            await wire.call("POST", f"{path}/vote", {"outcome": "a"})
            for each in (path, f"{path}/events", "/api/battles", "/api/votes", "/api/voters", "/api/pairs",
                         "/api/leaderboard", "/api/leaderboard?named=true&flagged=true&source=all", "/api/head-to-head",
                         "/api/votes?flagged=true&named=true&source=all", "/api/arena/export?format=json&flagged=true",
                         "/api/arena/export?format=fastchat&flagged=true"):  # fmt: skip
                await wire.call("GET", each)
            await wire.call("POST", f"{path}/undo")
            await wire.call("GET", path)
            for seen in wire.seen:
                assert gives_away(seen) == [], seen
            await wire.call("POST", f"{path}/vote", {"outcome": "a", "reveal": True})
            assert gives_away(wire.seen[-1]) != []
            await wire.close()

    run(main())


def test_a_list_of_names_is_hidden_alike_on_both_sides() -> None:
    """Else the gap would tell whose name is missing."""

    async def main() -> None:
        said = "Known are Qwendolyn-9B, Mistralette-3B, Llama 3.1 8B, ChatGPT, Gemma-2 and DeepSeek."
        async with arena_daemon(two(said, said)) as fcd:
            info = await fcd.client.create_battle(BattleRequest(prompt="List models."))
            await to_end(fcd.client, info.id)
            turn = (await fcd.client.battle(info.id)).turns[0]
            assert turn.a == turn.b
            assert turn.a.text.count("█████") == 6

    run(main())


def test_failures_look_alike() -> None:
    async def main() -> None:
        async with arena_daemon(two("", "")) as fcd:
            for script, words in zip(fcd.scripts.values(), ("cuda:0 is full", "the key is wrong"), strict=True):
                script.fails = words
            wire = Wire(fcd)
            made = (await wire.call("POST", "/api/battles", {"prompt": "Hi?"})).json()
            await wire.call("GET", f"/api/battles/{made['id']}/events")
            answer = (await wire.call("GET", f"/api/battles/{made['id']}")).json()
            assert answer["turns"][0]["a"] == answer["turns"][0]["b"]
            assert all(gives_away(seen) == [] for seen in wire.seen)
            await wire.close()

    run(main())


def test_ids_say_nothing() -> None:
    async def main() -> None:
        async with arena_daemon(two("", "")) as fcd:
            ids = [(await fcd.client.create_battle(BattleRequest())).id for _ in range(8)]
            assert all(len(each) == 32 and int(each, 16) for each in ids)
            assert len({each[:8] for each in ids}) == 8

    run(main())


def test_thoughts_are_not_shown() -> None:
    async def main() -> None:
        async with arena_daemon(two("<think>I am a reasoner</think>\n\nFour.", "Four.")) as fcd:
            info = await fcd.client.create_battle(BattleRequest(prompt="2+2?"))
            await to_end(fcd.client, info.id)
            turn = (await fcd.client.battle(info.id)).turns[0]
            assert turn.a == turn.b

    run(main())


def timeline(raw: list[tuple[float, dict[str, object]]], side: str) -> Iterator[tuple[float, int]]:
    total = 0
    for at, event in raw:
        if event.get("side") == side and event["type"] == "delta":
            total += len(str(event["text"]))
            yield at, total


async def watched(fcd: ArenaDaemon) -> tuple[list[tuple[float, dict[str, object]]], str]:
    """Every event with its time, and which side the first model had."""
    info = await fcd.client.create_battle(BattleRequest(prompt="Hi?"))
    raw = []
    async for event in fcd.client.events("GET", f"/api/battles/{info.id}/events"):
        raw.append((time.monotonic(), json.loads(event.data)))
    shown = await fcd.client.vote(info.id, "skip", reveal=True)
    return raw, "a" if shown.model_a == NAMES[0] else "b"


def test_both_sides_are_shown_at_one_pace_whatever_their_speeds() -> None:
    async def main() -> None:
        text = "All work and no play. " * 12
        scripts = {NAMES[0]: Script(text, pause=0.0), NAMES[1]: Script(text, pause=0.02, first=0.4)}
        async with arena_daemon(scripts) as fcd:
            raw, _ = await watched(fcd)
            steps = {side: list(timeline(raw, side)) for side in ("a", "b")}
            assert [total for _, total in steps["a"]] == [total for _, total in steps["b"]]
            assert len(steps["a"]) >= 10
            apart = [abs(one - other) for (one, _), (other, _) in zip(steps["a"], steps["b"], strict=True)]
            assert sorted(apart)[int(0.9 * len(apart))] < 0.03
            order = [str(event.get("side")) for _, event in raw if event["type"] == "delta"]
            assert order == ["a", "b"] * (len(order) // 2), "the fast side must not come first"

    run(main())


@pytest.mark.parametrize("fast_is_short", [True, False])
def test_the_longer_answer_goes_on_at_the_same_pace(fast_is_short: bool) -> None:
    """When the shorter side is over, the other is written on at the slower side's speed, whoever that is."""

    async def main() -> None:
        short, long = "word " * 24, "word " * 72
        fast = Script(short if fast_is_short else long, pause=0.0)
        slow = Script(long if fast_is_short else short, pause=0.02)
        async with arena_daemon({NAMES[0]: fast, NAMES[1]: slow}) as fcd:
            raw, first = await watched(fcd)
            side = first if not fast_is_short else {"a": "b", "b": "a"}[first]
            steps = list(timeline(raw, side))
            middle = next(index for index, (_, total) in enumerate(steps) if total >= len(short))
            early = steps[middle][1] / (steps[middle][0] - steps[0][0])
            late = (steps[-1][1] - steps[middle][1]) / (steps[-1][0] - steps[middle][0])
            assert 0.5 < late / early < 2.0

    run(main())


def test_the_arena_model_tells_nothing() -> None:
    async def main() -> None:
        async with arena_daemon(two("I am Qwendolyn.", "I am Mistralette.")) as fcd:
            wire = Wire(fcd)
            body = {"model": "arena", "messages": [{"role": "user", "content": "Who?"}]}
            for stream in (False, True):
                await wire.call("POST", "/v1/chat/completions", {**body, "stream": stream})
            text = " ".join(wire.seen).replace("finish_reason", "")
            assert gives_away(text) == []
            await wire.close()

    run(main())


def test_a_client_that_reattaches_is_told_no_more() -> None:
    async def main() -> None:
        hold = asyncio.Event()
        async with arena_daemon(two("I am Qwendolyn. " * 20, "I am Mistralette. " * 20, hold=hold, pause=0.001)) as fcd:
            info = await fcd.client.create_battle(BattleRequest(prompt="Hi?"))
            async with asyncio.timeout(10):
                async for event in fcd.client.battle_events(info.id):
                    if event.type == "delta" and event.side == "b":
                        break
                first = await anext(fcd.client.battle_events(info.id))
            assert gives_away(str(first)) == []
            assert first.battle is not None
            turn = first.battle.turns[0]
            assert turn.a.state == turn.b.state == "writing"
            assert abs(len(turn.a.text) - len(turn.b.text)) <= 8
            with pytest.raises(ApiError):
                await fcd.client.reveal(info.id)
            hold.set()

    run(main())
