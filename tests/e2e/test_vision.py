"""Images through everything: a daemon, a small model that sees, OpenAI's own client, and kept chats."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import openai
import pytest

from fcd.paths import resolve_paths
from tests.e2e.harness import Home, wait_for
from tests.e2e.test_tui_pty import CTRL_Q, ENTER, Terminal
from tests.image_files import bomb, data_url, image_part, picture, shows
from tests.tiny_models import make_model
from tests.tiny_vision import make_vision

pytestmark = pytest.mark.slow

WIDE, TALL = image_part(picture("PNG", 60, 40)), image_part(picture("JPEG", 100, 200))
WHERE = "messages[0].content[1].image_url"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A daemon with a model that sees, `eye`, and one that does not, `blind`."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "config").mkdir()
    eye, blind = make_vision("qwen2_5_vl", folder / "eye"), make_model("llama", folder / "blind")
    models = f'[models.eye]\npath = "{eye}"\n[models.blind]\npath = "{blind}"\n'
    chat = '[chat]\nmodel = "eye"\nmax_tokens = 8\ntemperature = 0\n'
    (folder / "config" / "config.toml").write_text(models + chat)
    home = Home(folder)
    home.fcd("daemon", "start")
    try:
        home.fcd("load", "eye")
        home.fcd("load", "blind")
        yield home
    finally:
        home.stop()


@pytest.fixture
def client(home: Home) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{home.url}/v1/", api_key="EMPTY", max_retries=0)


def ask(home: Home, messages: Any, model: str = "eye", **fields: Any) -> httpx.Response:
    body = {"model": model, "messages": messages, "max_tokens": 8, "temperature": 0, **fields}
    return httpx.post(f"{home.url}/v1/chat/completions", json=body, timeout=60)


def text_of(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def test_an_image_decides_what_is_answered_and_its_tokens_count(home: Home) -> None:
    one, other = ask(home, shows("What is it?", WIDE)), ask(home, shows("What is it?", TALL))
    assert text_of(one) != text_of(other)
    assert text_of(ask(home, shows("What is it?", WIDE))) == text_of(one)
    words = ask(home, [{"role": "user", "content": "What is it?"}]).json()["usage"]["prompt_tokens"]
    small, large = (each.json()["usage"]["prompt_tokens"] for each in (one, other))
    assert words < small < large
    counted = httpx.post(f"{home.url}/tokenize", json={"model": "eye", "messages": shows("What is it?", TALL)})
    assert counted.json()["count"] == large


def test_openais_client_streams_the_same(home: Home, client: openai.OpenAI) -> None:
    asked: Any = {"model": "eye", "messages": shows("What is it?", WIDE, TALL), "max_tokens": 8, "temperature": 0}
    chunks = list(client.chat.completions.create(**asked, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == client.chat.completions.create(**asked).choices[0].message.content
    responses: Any = client.responses
    content = [
        {"type": "input_text", "text": "What is it?"},
        {"type": "input_image", "image_url": WIDE["image_url"]["url"]},
        {"type": "input_image", "image_url": TALL["image_url"]["url"], "detail": "high"},
    ]
    made = responses.create(
        model="eye", input=[{"role": "user", "content": content}], max_output_tokens=8, temperature=0
    )
    assert made.output_text == text


def test_low_detail_is_a_smaller_image(home: Home) -> None:
    large = picture("PNG", 1200, 900)
    counts = [
        ask(home, shows("x", image_part(large, detail=detail))).json()["usage"]["prompt_tokens"]
        for detail in ("auto", "low")
    ]
    assert counts[0] >= counts[1]


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/a.png"}}, f"{WHERE}.url"),
        (image_part(bomb()), f"{WHERE}.url"),
        (image_part(picture("PNG")[:60]), f"{WHERE}.url"),
        ({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}, "messages[0].content[1].type"),
    ],
)
def test_what_is_no_image_is_refused_and_the_worker_lives(home: Home, part: Any, param: str) -> None:
    answer = ask(home, shows("x", part))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    text_of(ask(home, shows("x", WIDE)))


def test_a_context_is_counted_with_its_images(home: Home) -> None:
    answer = ask(home, shows("x", *[TALL] * 30), max_tokens=900)
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    cut = ask(home, shows("x", WIDE), truncate_prompt_tokens=4)
    assert (cut.status_code, cut.json()["error"]["param"]) == (400, "truncate_prompt_tokens")
    marked = ask(home, shows("x <|vision_start|><|image_pad|><|vision_end|>", WIDE))
    assert (marked.status_code, marked.json()["error"]["param"]) == (400, "messages")


def test_a_blind_model_says_what_would_work(home: Home) -> None:
    answer = ask(home, shows("x", WIDE), model="blind")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, WHERE)
    assert "'blind' cannot see images" in answer.json()["error"]["message"]
    cards = {card["id"]: card for card in httpx.get(f"{home.url}/v1/models").json()["data"]}
    assert "vision" in cards["eye"]["capabilities"]
    assert "vision" not in cards["blind"]["capabilities"]
    workers = {worker["models"][0]: worker for worker in home.workers()}
    assert "vision" in workers["eye"]["capabilities"]
    shown = home.fcd("worker", "show", workers["eye"]["name"]).stdout
    assert "vision" in shown


def test_fastchats_clients_send_theirs_beside_the_prompt(home: Home) -> None:
    """At the worker's own address, as FastChat's controller gives it out."""
    address = next(worker["address"] for worker in home.workers() if "eye" in worker["models"])
    conv = httpx.post(f"{address}/worker_get_conv_template", json={}).json()["conv"]
    assert conv["roles"][0]
    prompt = "<|im_start|>user\n$$<image>$$What is it?<|im_end|>\n<|im_start|>assistant\n"
    body = {"prompt": prompt, "temperature": 0, "max_new_tokens": 8, "echo": False}
    image = WIDE["image_url"]["url"].partition(",")[2]
    answers = [
        httpx.post(f"{address}/worker_generate", json=body | {"images": images}, timeout=60).json()
        for images in ([image], [TALL["image_url"]["url"]], [image, image], ["http://127.0.0.1/x"])
    ]
    assert answers[0]["error_code"] == 0, answers[0]
    same = [{"role": "user", "content": [WIDE, {"type": "text", "text": "What is it?"}]}]
    assert answers[0]["text"] == text_of(ask(home, same))
    assert answers[1]["text"] != answers[0]["text"]
    assert "1 places for images, and 2 came" in answers[2]["text"]
    assert "nothing is fetched" in answers[3]["text"]
    named = httpx.post(f"{home.url}/list_multimodal_models", headers=_admin(home)).json()
    assert named["models"] == ["eye"]


def test_a_kept_chat_sends_its_images_each_time(home: Home) -> None:
    headers = _admin(home)
    made = httpx.post(f"{home.url}/api/chats", json={"model": "eye"}, headers=headers).json()
    chat = made["id"]
    attached = {"name": "wide.png", "media": "image/png", "data": WIDE["image_url"]["url"], "size": 3}
    httpx.patch(f"{home.url}/api/chats/{chat}", json={"params": {"max_tokens": 8, "temperature": 0}}, headers=headers)
    asked = {"prompt": "What is it?", "attachments": [attached]}
    began = httpx.post(f"{home.url}/api/chats/{chat}/generate", json=asked, headers=headers)
    assert began.status_code == 202, began.text
    answer = _written(home, chat, began.json()["answer"]["id"])
    assert answer["state"] == "cut", answer
    assert answer["content"] == text_of(ask(home, shows("What is it?", WIDE)))
    for bad in (data_url(bomb()), data_url(b"hello"), "https://example.com/a.png"):
        refused = httpx.post(
            f"{home.url}/api/chats/{chat}/generate",
            json={"prompt": "x", "attachments": [attached | {"data": bad}]},
            headers=headers,
        )
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "attachments[0].data")


def _written(home: Home, chat: str, message: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found = httpx.get(f"{home.url}/api/chats/{chat}/messages/{message}", headers=_admin(home)).json()
        return found if found.get("state") not in ("waiting", "writing") else None

    found = wait_for(look, what="the answer")
    assert found is not None
    return found


def _admin(home: Home) -> dict[str, str]:
    token = resolve_paths(home.environ).admin_token.read_text(encoding="utf-8").strip()
    return {"Authorization": f"Bearer {token}"}


def test_a_terminal_attaches_a_pasted_picture_and_shows_what_was_seen(home: Home) -> None:
    file = home.folder / "a wide one.png"
    file.write_bytes(picture("PNG", 60, 40))
    terminal = Terminal(home, "tui", size=(100, 30))
    try:
        terminal.wait("● daemon", within=60)
        terminal.type(f"\x1b[200~'{file}'\x1b[201~".encode())
        terminal.wait("+ a wide one.png")
        terminal.type("What is it?")
        terminal.type(ENTER)
        terminal.wait(lambda text: "60x40" in text and "What is it?" in text, within=60)
        wait_for(lambda: _last(home)["messages"][-1]["state"] == "cut", what="the answer")
        question, answer = _last(home)["messages"]
        assert (question["attachments"][0]["width"], question["attachments"][0]["height"]) == (60, 40)
        assert answer["content"] == text_of(ask(home, shows("What is it?", WIDE)))
        terminal.type(CTRL_Q)
    finally:
        terminal.close()


def _last(home: Home) -> dict[str, Any]:
    chats = httpx.get(f"{home.url}/api/chats", headers=_admin(home)).json()["chats"]
    found: dict[str, Any] = httpx.get(f"{home.url}/api/chats/{chats[0]['id']}", headers=_admin(home)).json()
    return found
