"""FastChat's own web interface with our daemon as its controller, driven the way its page drives it."""

from __future__ import annotations

import ast
import json
import re
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest

from tests.e2e.harness import Home, chat, running_daemon
from tests.e2e.peers import Programs, fastchat_web_python, programs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="FastChat is run in process groups"),
]

NAMED = "qwen-mini"
"""FastChat chooses a template by the model's name: this one gets ChatML, which is what it knows."""
QUESTION = "What is the capital of France?"
SYSTEM = "You are a helpful assistant."
LENGTH = 24
FIELDS = (
    *("model", "prompt", "temperature", "repetition_penalty", "top_p", "max_new_tokens"),
    *("stop", "stop_token_ids", "echo"),
)


class Page:
    """One open page: what Gradio's script in a browser sends, and what it is sent."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session = uuid.uuid4().hex[:11]
        self._config = httpx.get(f"{url}/config", timeout=30).json()
        self._components = {each["id"]: each for each in self._config["components"]}
        self.steps = 0

    def models(self) -> list[str]:
        """What the drop-down list of models offers once the page is loaded."""
        (update,) = self._outputs(self._event("load"), [{}], "dropdown")
        return [value for _, value in update["choices"]]

    def send(self, model: str, text: str, *, length: int = LENGTH) -> list[list[str]]:
        """Type a message and press Enter; the conversation when the answer is complete."""
        submit = self._event("submit")
        self._outputs(submit, [None, model, text, None], "chatbot")
        return self._respond(submit, length)

    def regenerate(self) -> list[list[str]]:
        click = self._event("click", "regenerate")
        self._outputs(click, [None], "chatbot")
        return self._respond(click, LENGTH)

    def _respond(self, after: dict[str, Any], length: int) -> list[list[str]]:
        """The step that follows on the other: temperature 0, top_p 1, so many tokens."""
        (then,) = (each for each in self._config["dependencies"] if each["trigger_after"] == after["id"])
        (conversation,) = self._outputs(then, [None, 0.0, 1.0, length], "chatbot")
        shown: list[list[str]] = conversation
        return shown

    def _event(self, kind: str, name: str = "") -> dict[str, Any]:
        (found,) = (
            each
            for each in self._config["dependencies"]
            if each["targets"][0][1] == kind and each["api_name"].startswith(name)
        )
        event: dict[str, Any] = found
        return event

    def _outputs(self, event: dict[str, Any], inputs: list[Any], kind: str) -> list[Any]:
        """Run it through the queue; its outputs for components of that kind."""
        body = {"data": inputs, "fn_index": event["id"], "session_hash": self._session}
        joined = httpx.post(f"{self._url}/queue/join", json=body, timeout=30)
        assert joined.status_code == 200, joined.text
        done = self._completed()
        assert done["success"], done
        kinds = [self._components[each]["type"] for each in event["outputs"]]
        return [value for found, value in zip(kinds, done["output"]["data"], strict=True) if found == kind]

    def _completed(self) -> dict[str, Any]:
        self.steps = 0
        with httpx.stream(
            "GET", f"{self._url}/queue/data", params={"session_hash": self._session}, timeout=60
        ) as answer:
            for line in answer.iter_lines():
                message = json.loads(line[5:]) if line.startswith("data:") else {}
                self.steps += message.get("msg") == "process_generating"
                if message.get("msg") == "process_completed":
                    completed: dict[str, Any] = message
                    return completed
        raise AssertionError("the page's queue ended without a result")


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    with programs(tmp_path_factory.mktemp("logs"), fastchat_web_python()) as found:
        yield found


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, web: Programs) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("home")
    (folder / "config").mkdir()
    (folder / "config" / "config.toml").write_text(f'[models.{NAMED}]\npath = "guide-mini"\n')
    with running_daemon(folder) as home:
        chat(home.url, "Hello", max_tokens=1)
        yield home


@pytest.fixture(scope="module")
def url(daemon: Home, web: Programs) -> str:
    secret = json.loads(daemon.fcd("token", "create", "fastchat", "--json").stdout)["secret"]
    return web.web_server(f"{daemon.url}/join/{secret}")


def requests_in(web: Programs) -> list[dict[str, Any]]:
    """What the web interface says that it sent to /worker_generate_stream."""
    return [ast.literal_eval(line) for line in re.findall(r"==== request ====\n(\{.*\})", web.logs(1_000_000))]


def addresses_in(web: Programs) -> list[tuple[str, str]]:
    """Which worker it was sent to for which model, as it says."""
    return re.findall(r"model_name: (\S+), worker_addr: (\S+)", web.logs(1_000_000))


def addresses(daemon: Home, model: str) -> list[str]:
    return [worker["address"] for worker in daemon.workers() if model in worker["models"]]


def test_its_page_lists_our_models_and_streams_a_workers_answer(daemon: Home, web: Programs, url: str) -> None:
    page = Page(url)
    assert page.models() == ["guide", NAMED]
    ((asked, answer),) = page.send("guide", QUESTION)
    assert asked == QUESTION
    # The cursor, several frames, and the whole text.
    assert page.steps > 4
    sent = requests_in(web)[-1]
    assert tuple(sent) == FIELDS
    assert addresses_in(web)[-1] == ("guide", *addresses(daemon, "guide"))
    assert sent["prompt"].endswith(f"### Human: {QUESTION}\n### Assistant:")
    assert (sent["stop"], sent["stop_token_ids"], sent["echo"]) == ("###", None, False)
    body = {
        **{name: sent[name] for name in ("model", "prompt", "temperature", "top_p", "stop")},
        "max_tokens": sent["max_new_tokens"],
    }
    ours = httpx.post(f"{daemon.url}/v1/completions", json=body, timeout=60).json()["choices"][0]["text"]
    assert answer == ours.strip()
    assert answer
    assert page.regenerate() == [[asked, answer]]


def test_a_model_that_does_not_run_is_loaded_and_a_conversation_goes_on(daemon: Home, web: Programs, url: str) -> None:
    assert not addresses(daemon, NAMED)
    page = Page(url)
    page.models()
    messages = [{"role": "system", "content": SYSTEM}]
    for number, text in enumerate((QUESTION, "Thank you!")):
        shown = page.send(NAMED, text)
        messages.append({"role": "user", "content": text})
        body = {"model": NAMED, "messages": messages, "temperature": 0, "max_tokens": LENGTH}
        ours = httpx.post(f"{daemon.url}/v1/chat/completions", json=body, timeout=60).json()
        assert shown[number] == [text, ours["choices"][0]["message"]["content"].strip()]
        messages.append({"role": "assistant", "content": shown[number][1]})
    assert addresses_in(web)[-1] == (NAMED, *addresses(daemon, NAMED))
    # FastChat's numbers of the end tokens are another model's: they are none of ours, and refused they would break it.
    assert min(requests_in(web)[-1]["stop_token_ids"]) > 100_000


def test_a_message_longer_than_the_context_is_answered(daemon: Home, web: Programs, url: str) -> None:
    """FastChat's workers cut such prompts from the left; OpenAI's clients are told."""
    page = Page(url)
    ((_, answer),) = page.send("guide", "one two three " * 800, length=16)
    assert answer
    assert "error_code" not in answer
    body = {"model": "guide", "prompt": requests_in(web)[-1]["prompt"], "max_tokens": 16}
    refused = httpx.post(f"{daemon.url}/v1/completions", json=body, timeout=60).json()
    assert refused["error"]["code"] == "context_length_exceeded"
