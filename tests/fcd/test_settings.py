from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from fcd.errors import ConfigError
from fcd.settings import Settings, get_setting, load_settings, parse_duration, setting_names, write_setting


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def test_a_missing_file_gives_the_defaults(config: Path) -> None:
    assert load_settings(config, {}) == Settings()


def test_each_layer_covers_the_one_below(config: Path) -> None:
    config.write_text("[daemon]\nport = 1000\nhost = '127.0.0.2'\nmax_queue = 7\n")
    settings = load_settings(config, {"FCD_PORT": "2000", "FCD_DAEMON_MAX_QUEUE": "8"}, {"daemon.port": 3000})
    assert (settings.daemon.port, settings.daemon.host, settings.daemon.max_queue) == (3000, "127.0.0.2", 8)


def test_a_flag_that_was_not_given_covers_nothing(config: Path) -> None:
    assert load_settings(config, {"FCD_PORT": "2000"}, {"daemon.port": None}).daemon.port == 2000


def test_environment_strings_become_the_field_types(config: Path) -> None:
    settings = load_settings(
        config,
        {"FCD_DAEMON_ALLOWED_HOSTS": "a.example, b.example", "FCD_TUI_ASCII": "yes", "FCD_DAEMON_DRAIN_S": "1.5"},
    )
    assert settings.daemon.allowed_hosts == ["a.example", "b.example"]
    assert settings.tui.ascii is True
    assert settings.daemon.drain_s == 1.5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[daemon]\nprot = 1\n", ["line 2", "daemon.prot", "Did you mean 'port'"]),
        ("[daemno]\nport = 1\n", ["line 1", "daemno", "Did you mean 'daemon'"]),
        ("[models.a]\ndevcie = 'cpu'\n", ["models.a.devcie", "Did you mean 'device'"]),
        ("[daemon]\nport = 'x'\n", ["daemon.port"]),
        ("[daemon]\nport = 70000\n", ["daemon.port", "65535"]),
        ("[daemon]\nkeep_alive = 'soon'\n", ["soon", "duration"]),
        ("[models.a]\nkeep_alive = 'soon'\n", ["models.a.keep_alive"]),
        ("daemon = 3\n", ["daemon must be a table"]),
        ("[models]\na = 3\n", ["models.a must be a table"]),
        ("[daemon\n", ["not valid TOML", "line 1"]),
    ],
)
def test_a_bad_file_is_refused_naming_the_place(config: Path, text: str, words: list[str]) -> None:
    config.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_settings(config, {})
    assert str(config) in str(error.value) or "duration" in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_a_bad_environment_variable_is_named(config: Path) -> None:
    with pytest.raises(ConfigError, match="FCD_DAEMON_MAX_QUEUE='many'"):
        load_settings(config, {"FCD_DAEMON_MAX_QUEUE": "many"})


def test_writing_a_setting_keeps_the_rest(config: Path) -> None:
    config.write_text("[models.mine]\npath = '/m'\n[daemon]\nport = 1\n")
    assert write_setting(config, "daemon.max_queue", "9") == 9
    assert tomllib.loads(config.read_text()) == {
        "models": {"mine": {"path": "/m"}},
        "daemon": {"port": 1, "max_queue": 9},
    }


def test_a_refused_write_leaves_the_file_alone(config: Path) -> None:
    config.write_text("[daemon]\nport = 1\n")
    for name, value in (("daemon.port", "99999999"), ("daemon.prot", "1"), ("nowhere", "1"), ("daemon.max_queue", "x")):
        with pytest.raises(ConfigError):
            write_setting(config, name, value)
    assert config.read_text() == "[daemon]\nport = 1\n"


def test_every_setting_can_be_read_by_name() -> None:
    settings = Settings()
    for name in setting_names():
        get_setting(settings, name)
    with pytest.raises(ConfigError, match=r"Did you mean 'daemon\.port'"):
        get_setting(settings, "daemon.prt")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5m", 300),
        ("30s", 30),
        ("1h", 3600),
        ("90", 90),
        ("-1", float("inf")),
        ("0", 0),
        ("1.5h", 5400),
        ("2d", 172_800),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "5 parsecs", "1h30m", "nan"])
def test_what_is_not_a_duration(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[models.a]\n[models.a.adapters]\nb = "/x"\n[models.b]\n', "models.a.adapters.b: a model has this name"),
        ('[models.a.adapters]\np = "/x"\n[models.b.adapters]\np = "/y"\n', "an adapter of models.a has this name"),
        ('[models.a.adapters]\np = "/x"\n[aliases]\np = "guide"\n', "an alias has this name"),
        ('[models.a.adapters]\n"p,q" = "/x"\n', "cannot be a model's name"),
        ('[models.a.adapters]\np = ""\n', "names no folder"),
        ("[models.a.adapters]\np = 3\n", "models.a.adapters"),
    ],
)
def test_adapters_that_cannot_be(text: str, message: str, config: Path) -> None:
    config.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_settings(config, {})


def test_adapters_are_read(config: Path) -> None:
    config.write_text('[models.a]\npath = "guide"\n[models.a.adapters]\np = "/x"\n')
    assert load_settings(config, {}).models["a"].adapters == {"p": "/x"}
