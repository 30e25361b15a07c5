from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from fcd.chatlog import (
    Chat,
    ChatMessage,
    keep_chat,
    last_chat,
    load_chat,
    new_chat,
    save_chat,
    to_markdown,
    to_openai_json,
)
from fcd.errors import FcdError
from fcd.paths import resolve_paths


def talked() -> Chat:
    chat = new_chat("guide", "Be kind.", {"temperature": 0.5})
    chat.ask("one?")
    chat.messages.append(ChatMessage("assistant", "One.", model="guide"))
    chat.ask("two?")
    chat.messages.append(ChatMessage("assistant", "Tw", partial=True, model="guide"))
    return chat


def test_a_chat_goes_round_through_its_file(tmp_path: Path) -> None:
    chat = talked()
    save_chat(chat, tmp_path / "deep" / "chat.json")
    assert load_chat(tmp_path / "deep" / "chat.json") == chat
    assert stat.S_IMODE((tmp_path / "deep" / "chat.json").stat().st_mode) == 0o600
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["chat.json"], "nothing else is left behind"


def test_undo_and_drop_answer() -> None:
    chat = talked()
    assert chat.drop_answer()
    assert chat.messages[-1].content == "two?"
    assert (dropped := chat.undo()) is not None
    assert dropped.content == "two?"
    assert (dropped := chat.undo()) is not None
    assert dropped.content == "one?"
    assert chat.undo() is None
    assert not chat.drop_answer()
    assert chat.request_messages() == [{"role": "system", "content": "Be kind."}]


def test_the_last_chat_is_found_and_broken_files_are_passed_over(tmp_path: Path) -> None:
    paths = resolve_paths({"FCD_HOME": str(tmp_path)})
    assert last_chat(paths) is None
    keep_chat(new_chat("guide"), paths)
    assert last_chat(paths) is None, "a chat without messages is not kept"
    chat = talked()
    keep_chat(chat, paths)
    (tmp_path / "data" / "chats" / "zzz.json").write_text('{"cut short')
    found = last_chat(paths)
    assert found is not None
    assert found.id == chat.id


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("not json", "not JSON"),
        ("[]", "not a saved chat"),
        ('{"id": 3}', "not a saved chat"),
        ('{"roles": ["U", "A"], "messages": [1]}', "cannot be read"),
        ('{"roles": [], "messages": []}', "cannot be read"),
        ('{"roles": ["U", "A"], "messages": {}}', "cannot be read"),
    ],
)
def test_files_that_are_no_chats(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "chat.json").write_text(text)
    with pytest.raises(FcdError, match=said):
        load_chat(tmp_path / "chat.json")


def test_a_file_that_is_not_there_or_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(FcdError, match="No such file"):
        load_chat(tmp_path / "nowhere.json")
    (tmp_path / "file").touch()
    with pytest.raises(FcdError, match="cannot be written"):
        save_chat(talked(), tmp_path / "file" / "chat.json")


def test_exports() -> None:
    assert "## guide (stopped)\n\nTw" in to_markdown(talked())
    assert "# one?" in to_markdown(talked())
    exported = json.loads(to_openai_json(talked()))
    assert [message["role"] for message in exported["messages"]] == ["system", "user", "assistant", "user", "assistant"]
    assert exported["temperature"] == 0.5
