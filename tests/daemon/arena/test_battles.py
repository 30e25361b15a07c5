"""Battles over the daemon's API, with scripted models behind real sockets."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2 as httpx
import pytest

from fcd.errors import ApiError
from fcd.wire.arena import BattleRequest, LeaderboardQuery, Sampling
from tests.daemon.arena.harness import Script, arena_daemon, model_of, texts, to_end
from tests.daemon.harness import run


def test_a_blind_battle_from_prompt_to_board() -> None:
    async def main() -> None:
        async with arena_daemon({"red": Script("Red says this."), "blue": Script("Blue says that, at length.")}) as fcd:
            info = await fcd.client.create_battle(BattleRequest(prompt="Hi?"))
            assert (info.model_a, info.model_b, info.final, info.running) == ("", "", False, True)
            events = await to_end(fcd.client, info.id)
            assert [each.type for each in events][-1] == "end"
            assert sorted(texts(events)) == ["Blue says that, at length.", "Red says this."]
            voted = await fcd.client.vote(info.id, "a")
            assert voted.vote == "a"
            assert not voted.final
            assert (await fcd.client.leaderboard()).votes == 0
            shown = await fcd.client.reveal(info.id)
            assert {shown.model_a, shown.model_b} == {"red", "blue"}
            assert shown.final
            assert shown.rated
            assert shown.ratings[0].after > 1000 > shown.ratings[1].after
            stats = shown.turns[0].a.stats
            assert stats is not None
            assert stats.finish_reason == "stop"
            board = await fcd.client.leaderboard()
            assert [row.model for row in board.rows] == [shown.model_a, shown.model_b]
            votes = await fcd.client.votes()
            assert [vote.outcome for vote in votes.votes] == ["a"]
            assert votes.votes[0].prompt == "Hi?"

    run(main())


def test_follow_ups_reach_each_side_with_its_own_answers_and_the_same_parameters() -> None:
    async def main() -> None:
        scripts = {"red": Script("first of red"), "blue": Script("first of blue")}
        async with arena_daemon(scripts) as fcd:
            request = BattleRequest(
                mode="named", models=["red", "blue"], system="Be kind.", sampling=Sampling(0.3, 0.9, 50, 4)
            )
            info = await fcd.client.create_battle(request)
            assert (info.model_a, info.model_b) == ("red", "blue")
            [_ async for _ in fcd.client.battle_turn(info.id, "One?")]
            [_ async for _ in fcd.client.battle_turn(info.id, "Two?")]
            for name, script in scripts.items():
                asked = script.asked[1]
                assert [message["content"] for message in asked["messages"]] == [
                    "Be kind.", "One?", f"first of {name}", "Two?",
                ]  # fmt: skip
                assert (asked["temperature"], asked["top_p"], asked["max_tokens"], asked["seed"]) == (0.3, 0.9, 50, 4)
            scripts["red"].text = "second thoughts"
            [_ async for _ in fcd.client.battle_regenerate(info.id)]
            again = await fcd.client.battle(info.id)
            assert len(again.turns) == 2
            assert again.turns[1].a.text == "second thoughts"
            final = await fcd.client.vote(info.id, "tie", reveal=True)
            assert not final.rated
            assert (await fcd.client.leaderboard()).votes == 0
            assert (await fcd.client.leaderboard(LeaderboardQuery(named=True))).votes == 1

    run(main())


def test_one_vote_only_and_undo_until_it_is_final() -> None:
    async def main() -> None:
        async with arena_daemon({"red": Script(), "blue": Script()}) as fcd:
            client = fcd.client
            info = await client.create_battle(BattleRequest(prompt="Hi?"))
            await to_end(client, info.id)
            for refused in (client.undo(info.id), client.reveal(info.id)):
                with pytest.raises(ApiError, match=r"no vote|Vote first") as caught:
                    await refused
                assert caught.value.status == 409
            await client.vote(info.id, "a")
            with pytest.raises(ApiError) as caught:
                await client.vote(info.id, "b")
            assert (caught.value.status, caught.value.code) == (409, "already_voted")
            undone = await client.undo(info.id)
            assert undone.vote is None
            await client.vote(info.id, "b")
            await client.reveal(info.id)
            with pytest.raises(ApiError, match="final"):
                await client.undo(info.id)
            with pytest.raises(ApiError):
                await client.vote(info.id, "a")
            with pytest.raises(ApiError, match="start another"):
                [_ async for _ in client.battle_turn(info.id, "More?")]
            assert [vote.outcome for vote in (await client.votes()).votes] == ["b"]

    run(main())


def test_a_vote_becomes_final_by_itself() -> None:
    async def main() -> None:
        async with arena_daemon({"red": Script(), "blue": Script()}, undo_s=0.2) as fcd:
            info = await fcd.client.create_battle(BattleRequest(prompt="Hi?"))
            await to_end(fcd.client, info.id)
            voted = await fcd.client.vote(info.id, "a")
            async with asyncio.timeout(5):
                while not (await fcd.client.battle(info.id)).final:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            assert (await fcd.client.leaderboard()).votes == 1
            with pytest.raises(ApiError, match="final"):
                await fcd.client.undo(info.id)
            assert voted.undo_until > voted.voted_at
            changes = (await fcd.client.reveal(info.id)).ratings
            assert [change.before for change in changes] == [1000.0, 1000.0]
            assert changes[0].after > 1000 > changes[1].after
            assert (await fcd.client.leaderboard()).votes == 1

    run(main())


def test_the_names_of_former_days_come_with_what_their_vote_did(tmp_path: Path) -> None:
    async def main() -> None:
        scripts = {"red": Script(), "blue": Script()}
        async with arena_daemon(scripts, home=tmp_path, undo_s=0.05) as fcd:
            info = await fcd.client.create_battle(BattleRequest(prompt="Hi?"))
            await to_end(fcd.client, info.id)
            await fcd.client.vote(info.id, "a")
            async with asyncio.timeout(5):
                while not (await fcd.client.battle(info.id)).final:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        async with arena_daemon(scripts, home=tmp_path) as fcd:
            for _ in range(2):
                changes = (await fcd.client.reveal(info.id)).ratings
                assert [change.before for change in changes] == [1000.0, 1000.0]
                assert changes[0].after > 1000 > changes[1].after
                assert (await fcd.client.leaderboard()).votes == 1

    run(main())


def test_two_who_stop_at_once_lose_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        hold = asyncio.Event()
        scripts = {name: Script("word " * 50, hold=hold) for name in ("red", "blue")}
        async with arena_daemon(scripts, home=tmp_path) as fcd:
            info = await fcd.client.create_battle(BattleRequest(prompt="Hi?"))
            async with asyncio.timeout(10):
                async for event in fcd.client.battle_events(info.id):
                    if event.type == "delta":
                        break
            path = f"/api/battles/{info.id}/stop"
            await asyncio.gather(*(fcd.client.json("POST", path) for _ in range(8)))
            assert (await fcd.client.battle(info.id)).turns[0].a.state == "stopped"
        async with arena_daemon(scripts, home=tmp_path) as fcd:
            kept = (await fcd.client.battle(info.id)).turns[0]
            assert kept.a.text or kept.b.text

    run(main())


def test_arena_and_best_are_listed_while_they_can_answer() -> None:
    async def main() -> None:
        async with arena_daemon({"red": Script(), "blue": Script()}) as fcd:

            async def listed() -> set[str]:
                return {model["id"] for model in (await fcd.client.json("GET", "/v1/models"))["data"]} - {"red", "blue"}

            assert await listed() == {"arena", "best"}
            assert (await fcd.client.json("GET", "/v1/models/arena"))["id"] == "arena"
            fcd.controller.states |= {"red": "failed"}
            assert await listed() == {"best"}
            with pytest.raises(ApiError) as failure:
                await fcd.client.json("GET", "/v1/models/arena")
            assert failure.value.status == 404
            fcd.controller.states |= {"red": "available", "blue": "available"}
            assert await listed() == {"arena"}, "no votes: nobody leads"
            info = await fcd.client.create_battle(BattleRequest(prompt="Hi?"))
            await to_end(fcd.client, info.id)
            winner = (await fcd.client.vote(info.id, "a", reveal=True)).model_a
            assert await listed() == {"arena", "best"}
            body = {"model": "best", "messages": [{"role": "user", "content": "Hi?"}]}
            assert (await fcd.client.json("POST", "/v1/chat/completions", body))["model"] == winner
            fcd.controller.states |= {"red": "failed", "blue": "failed"}
            assert await listed() == set()

    run(main())


def test_a_web_page_may_read_the_battles_id() -> None:
    async def main() -> None:
        async with arena_daemon({"red": Script(), "blue": Script()}) as fcd:
            fcd.context.settings.daemon.allowed_origins = ["https://page.example"]
            body = {"model": "arena", "messages": [{"role": "user", "content": "Hi?"}]}
            async with httpx.AsyncClient(base_url=fcd.url, timeout=20, trust_env=False) as http:
                for stream in (False, True):
                    answer = await http.post(
                        "/v1/chat/completions",
                        json={**body, "stream": stream},
                        headers={"Origin": "https://page.example"},
                    )
                    assert answer.headers["access-control-allow-origin"] == "https://page.example"
                    said = answer.headers["access-control-expose-headers"]
                    exposed = {name.strip().lower() for name in said.split(",")}
                    own = {name for name in answer.headers if name.startswith("x-fcd-")}
                    assert "x-fcd-battle" in own
                    assert own <= exposed

    run(main())


def test_an_early_vote_stops_both_and_keeps_what_was_shown() -> None:
    async def main() -> None:
        hold = asyncio.Event()
        scripts = {name: Script("word " * 200, piece=20, pause=0.01, hold=hold) for name in ("red", "blue")}
        async with arena_daemon(scripts) as fcd:
            info = await fcd.client.create_battle(BattleRequest(prompt="Talk."))
            with pytest.raises(ApiError, match="nothing to vote on"):
                await fcd.client.vote(info.id, "a")
            shown = 0
            async with asyncio.timeout(10):
                async for event in fcd.client.battle_events(info.id):
                    shown += len(event.text)
                    if shown > 200:
                        break
            final = await fcd.client.vote(info.id, "b", reveal=True)
            assert not final.running
            answers = (final.turns[0].a, final.turns[0].b)
            assert all(answer.state == "stopped" and 50 < len(answer.text) < 700 for answer in answers)
            assert final.rated
            for answer in answers:
                assert answer.stats is not None
                assert answer.stats.completion_tokens == len(answer.text.split()), "by the model's own tokenizer"
                assert answer.stats.tokens_per_second >= 0

    run(main())


def test_generation_goes_on_without_watchers_and_is_shown_again() -> None:
    async def main() -> None:
        hold = asyncio.Event()
        long = "abcdefghij" * 30
        async with arena_daemon(
            {"red": Script(long, pause=0.002, hold=hold), "blue": Script(long, pause=0.002)}
        ) as fcd:
            info = await fcd.client.create_battle(BattleRequest(prompt="Talk."))
            async with asyncio.timeout(10):
                async for event in fcd.client.battle_events(info.id):
                    if event.type == "delta":
                        break
            hold.set()
            events = await to_end(fcd.client, info.id)
            assert texts(events) == (long, long)
            assert len(await to_end(fcd.client, info.id)) == 2

    run(main())


def test_what_is_written_when_the_daemon_ends_is_kept(tmp_path: Path) -> None:
    async def main() -> None:
        scripts = {name: Script("word " * 100, pause=0.01, hold=asyncio.Event()) for name in ("red", "blue")}
        async with arena_daemon(scripts, home=tmp_path) as fcd:
            info = await fcd.client.create_battle(BattleRequest(prompt="Talk."))
            async with asyncio.timeout(10):
                async for event in fcd.client.battle_events(info.id):
                    if event.type == "delta" and event.side == "b":
                        break
        async with arena_daemon({"red": Script(), "blue": Script()}, home=tmp_path) as fcd:
            kept = await fcd.client.battle(info.id)
            assert kept.turns[0].a.text.startswith("word")
            assert (kept.turns[0].a.state, kept.model_a) == ("stopped", "")
            await fcd.client.vote(info.id, "tie")
        async with arena_daemon({"red": Script(), "blue": Script()}, home=tmp_path) as fcd:
            final = await fcd.client.reveal(info.id)
            assert final.vote == "tie"
            assert (await fcd.client.leaderboard()).votes == 1

    run(main())


def test_battles_that_do_not_count() -> None:
    async def main() -> None:
        scripts = {"zorblax-7b": Script("Hello, I am Zorblax."), "blue": Script("Hello, I am somebody.")}
        async with arena_daemon(scripts) as fcd:
            info = await fcd.client.create_battle(BattleRequest(prompt="Who?"))
            events = await to_end(fcd.client, info.id)
            assert not any("orbla" in each.text for each in events)
            assert any("█" in each.text for each in events)
            final = await fcd.client.vote(info.id, "a", reveal=True)
            assert (final.flags, final.rated) == (["identity"], False)
            assert any("Zorblax" in answer.text for answer in (final.turns[0].a, final.turns[0].b))
            scripts["blue"].fails = "blue is out of memory on cuda:0"
            info = await fcd.client.create_battle(BattleRequest(prompt="Who?"))
            events = await to_end(fcd.client, info.id)
            said = [each.error for each in events if each.type == "failed"]
            assert said == ["This side could not answer."]
            assert "blue" not in str(await fcd.client.battle(info.id))
            final = await fcd.client.vote(info.id, "a", reveal=True)
            assert "failed" in final.flags
            assert any("cuda:0" in answer.error for answer in (final.turns[0].a, final.turns[0].b))
            board = await fcd.client.leaderboard()
            assert (board.votes, board.left_out) == (0, 2)
            skipped = await fcd.client.create_battle(BattleRequest())
            assert (await fcd.client.vote(skipped.id, "skip", reveal=True)).final
            assert (await fcd.client.leaderboard()).votes == 0

    run(main())


def test_models_are_drawn_from_pools_and_not_when_they_are_down() -> None:
    async def main() -> None:
        pools = {"small": ["red", "green"]}
        async with arena_daemon({name: Script() for name in ("red", "green", "blue")}, pools=pools) as fcd:
            fcd.controller.states["blue"] = "failed"
            for request in (
                BattleRequest(),
                BattleRequest(pool="small"),
                BattleRequest(models=["red", "green", "blue"]),
            ):
                info = await fcd.client.create_battle(request)
                final = await fcd.client.vote(info.id, "skip", reveal=True)
                assert {final.model_a, final.model_b} == {"red", "green"}
            for request, words in (
                (BattleRequest(models=["red", "blue"]), "two models"),
                (BattleRequest(mode="named", models=["red"]), "exactly two"),
                (BattleRequest(models=["red", "grean"]), "green"),
                (BattleRequest(pool="huge"), "small"),
                (BattleRequest(prompt=" " * 10), "prompt"),
                (BattleRequest(sampling=Sampling(temperature=3)), "temperature"),
            ):
                with pytest.raises(ApiError, match=words):
                    await fcd.client.create_battle(request)

    run(main())


def test_keys_see_their_own_battles_only_and_votes_per_voter_are_bounded() -> None:
    async def main() -> None:
        async with arena_daemon({"red": Script(), "blue": Script()}, votes_per_hour=2) as fcd:
            one, _ = await fcd.context.security.create("key", name="one", scope="inference")
            two, _ = await fcd.context.security.create("key", name="two", scope="inference")
            async with fcd.someone(one) as first, fcd.someone(two) as second, fcd.someone() as nobody:
                info = await first.create_battle(BattleRequest(prompt="Hi?", voter="ann"))
                for other in (second, nobody):
                    with pytest.raises(ApiError) as caught:
                        await other.battle(info.id)
                    assert caught.value.status in (401, 404)
                with pytest.raises(ApiError) as caught:
                    await first.votes()
                assert caught.value.status == 403
                assert [each.id for each in await first.battles()] == [info.id]
                assert await second.battles() == []
                await to_end(first, info.id)
                await first.vote(info.id, "a", reveal=True)
                info = await first.create_battle(BattleRequest(prompt="Hi?", voter="ann"))
                await to_end(first, info.id)
                await first.vote(info.id, "a", reveal=True)
                info = await first.create_battle(BattleRequest(prompt="Hi?", voter="ann"))
                await to_end(first, info.id)
                with pytest.raises(ApiError, match="votes_per_hour") as caught:
                    await first.vote(info.id, "a", reveal=True)
                assert caught.value.status == 429
                assert (await first.leaderboard()).votes == 2
            voters = await fcd.client.voters()
            assert [voter.voter.endswith("/ann") for voter in voters] == [True]

    run(main())


def test_64_clients_vote_at_once() -> None:
    """Each of 64 battles gets two votes at the same moment: one is taken, and each is on the board once."""

    async def main() -> None:
        async with arena_daemon({"red": Script("short"), "blue": Script("short too")}, max_running=100) as fcd:
            infos = await asyncio.gather(*[fcd.client.create_battle(BattleRequest(prompt="Hi?")) for _ in range(64)])
            await asyncio.gather(*[to_end(fcd.client, info.id) for info in infos])
            tries = [fcd.client.vote(info.id, outcome, reveal=True) for info in infos for outcome in ("a", "b")]
            results = await asyncio.gather(*tries, return_exceptions=True)
            taken = [result for result in results if not isinstance(result, BaseException)]
            refused = [result for result in results if isinstance(result, ApiError)]
            assert (len(taken), len(refused)) == (64, 64)
            assert {error.status for error in refused} == {409}
            board = await fcd.client.leaderboard()
            assert board.votes == 64
            assert (await fcd.client.votes()).total == 64
            wins = sum(model_of(info, info.vote or "") == "red" for info in taken)
            assert {row.model: row.wins for row in board.rows}["red"] == wins

    run(main())


def test_arena_and_best_are_models_for_any_openai_client() -> None:
    async def main() -> None:
        async with arena_daemon({"red": Script("Something."), "blue": Script("Something.")}) as fcd:  # noqa: SIM117
            async with httpx.AsyncClient(base_url=fcd.url, timeout=20, trust_env=False) as http:
                body = {"model": "arena", "messages": [{"role": "user", "content": "Hi?"}]}
                answer = await http.post("/v1/chat/completions", json=body)
                assert answer.status_code == 200
                said = answer.json()
                assert (said["model"], said["choices"][0]["message"]["content"]) == ("arena", "Something.")
                assert "usage" not in said
                battle = answer.headers["x-fcd-battle"]
                await to_end(fcd.client, battle)
                voted = await http.post(f"/api/battles/{battle}/vote", json={"outcome": "a", "reveal": True})
                winner = model_of(fcd_info := (await fcd.client.battle(battle)), "a")
                assert voted.json()["model_a"] == fcd_info.model_a
                streamed = await http.post("/v1/chat/completions", json={**body, "stream": True})
                assert streamed.headers["x-fcd-battle"] != battle
                assert streamed.text.rstrip().endswith("data: [DONE]")
                for field in (
                    {"logprobs": True},
                    {"n": 2},
                    {"stream": True, "stream_options": {"include_usage": True}},
                ):
                    refused = await http.post("/v1/chat/completions", json={**body, **field})
                    assert refused.status_code == 400
                    assert refused.json()["error"]["param"] in ("logprobs", "n", "stream_options.include_usage")
                best = await http.post("/v1/chat/completions", json={**body, "model": "best"})
                assert best.json()["model"] == winner
                fcd.controller.states[winner] = "available"
                best = await http.post("/v1/chat/completions", json={**body, "model": "best"})
                assert best.json()["model"] == ({"red", "blue"} - {winner}).pop()

    run(main())


def test_too_many_battles_at_once_are_refused() -> None:
    async def main() -> None:
        hold = asyncio.Event()
        async with arena_daemon({"red": Script(hold=hold), "blue": Script(hold=hold)}, max_running=2) as fcd:
            first = await fcd.client.create_battle(BattleRequest(prompt="Hi?"))
            await fcd.client.create_battle(BattleRequest(prompt="Hi?"))
            with pytest.raises(ApiError) as caught:
                await fcd.client.create_battle(BattleRequest(prompt="Hi?"))
            assert caught.value.status == 429
            with pytest.raises(ApiError, match="still writing"):
                [_ async for _ in fcd.client.battle_turn(first.id, "More?")]
            stopped = await fcd.client.battle_stop(first.id)
            assert not stopped.running
            await fcd.client.create_battle(BattleRequest(prompt="Hi?"))

    run(main())
