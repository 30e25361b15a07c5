"""Engines with an environment of their own: how they are found."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from fcd.engines.environment import (
    MARKER,
    Marker,
    engine_folder,
    environment_python,
    find_engine,
    read_marker,
    read_version,
)
from fcd.errors import ConfigError, NotFound
from fcd.machine import Gpu
from fcd.paths import Paths
from fcd.settings import EnginesSettings, Settings, VllmSettings, get_setting, load_settings, write_setting

CARD = Gpu(0, "Card", 2**30, 2**30, "GPU-a")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(*(tmp_path / name for name in ("config", "data", "state", "cache", "runtime")))


def with_vllm(**values: object) -> Settings:
    return Settings(engines=EnginesSettings(vllm=VllmSettings(**values)))  # type: ignore[arg-type]


def make_environment(folder: Path, *, marker: bool = True) -> None:
    python = environment_python(folder)
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    if marker:
        import msgspec

        (folder / MARKER).write_bytes(msgspec.json.encode(Marker("vllm", "1.2.3", "3.12")))


def test_nothing_is_there_at_first(paths: Paths) -> None:
    found = find_engine("vllm", Settings(), paths=paths, probe=lambda: [CARD])
    assert (found.source, found.runnable) == ("", False)
    assert "fcd engine install vllm" in found.reason


def test_nobody_is_told_to_install_what_an_install_would_refuse(paths: Paths) -> None:
    found = find_engine("vllm", Settings(), paths=paths, probe=list)
    assert (found.source, found.runnable) == ("", False)
    assert "NVIDIA" in found.reason
    assert "fcd engine install" not in found.reason


def test_an_environment_without_its_marker_is_not_installed(paths: Paths) -> None:
    make_environment(engine_folder(paths, "vllm"), marker=False)
    found = find_engine("vllm", Settings(), paths=paths, probe=lambda: [CARD])
    assert (found.source, found.version, found.runnable) == ("", "", False)
    assert "did not end" in found.reason


def test_what_was_installed_runs_where_there_is_a_gpu(paths: Paths) -> None:
    make_environment(engine_folder(paths, "vllm"))
    found = find_engine("vllm", Settings(), paths=paths, probe=lambda: [CARD])
    assert (found.source, found.version, found.runnable, found.reason) == ("installed", "1.2.3", True, "")
    assert found.command[0] == found.python
    without = find_engine("vllm", Settings(), paths=paths, probe=list)
    assert not without.runnable
    assert "NVIDIA" in without.reason


def test_a_marker_of_an_environment_whose_interpreter_is_gone_counts_for_nothing(paths: Paths) -> None:
    folder = engine_folder(paths, "vllm")
    make_environment(folder)
    environment_python(folder).unlink()
    assert read_marker(folder) is None


def test_the_version_is_read_without_importing(tmp_path: Path) -> None:
    """The package of this name fails at import."""
    site = tmp_path / "site"
    (site / "vllm").mkdir(parents=True)
    (site / "vllm" / "__init__.py").write_text("raise RuntimeError('imported')")
    metadata = site / "vllm-9.8.7.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 9.8.7\n")
    assert read_version("vllm", Path(sys.executable), {"PYTHONPATH": str(site)}) == "9.8.7"
    found = find_engine("vllm", with_vllm(python=sys.executable, env={"PYTHONPATH": str(site)}))
    assert (found.source, found.version, found.runnable) == ("configured", "9.8.7", True)


def test_an_interpreter_without_the_engine_is_told(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\nexit 1\n")
    bare.chmod(0o755)
    found = find_engine("vllm", with_vllm(python=str(bare)))
    assert (found.runnable, found.version) == (False, "")
    assert "no vllm" in found.reason
    missing = find_engine("vllm", with_vllm(python=str(tmp_path / "nothing")))
    assert "no program" in missing.reason


def test_a_command_of_ones_own_is_taken_at_its_word(tmp_path: Path) -> None:
    script = tmp_path / "stand-in"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    found = find_engine("vllm", with_vllm(command=f"{script} --quiet", python="/nowhere"), probe=list)
    assert found.runnable
    assert found.command == (str(script), "--quiet")
    assert not find_engine("vllm", with_vllm(command="no-such-program-here")).runnable
    assert not find_engine("vllm", with_vllm(command="'open")).runnable


def test_other_engines_are_not_known() -> None:
    with pytest.raises(NotFound):
        find_engine("sglang", Settings())


def test_the_settings_have_a_table_of_their_own(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        textwrap.dedent("""
        [engines.vllm]
        python = "/opt/vllm/bin/python"
        env = { VLLM_USE_FLASHINFER_SAMPLER = "0" }
        """)
    )
    settings = load_settings(config, {"FCD_ENGINES_VLLM_COMMAND": "vllm"})
    assert settings.engines.vllm.python == "/opt/vllm/bin/python"
    assert settings.engines.vllm.env == {"VLLM_USE_FLASHINFER_SAMPLER": "0"}
    assert settings.engines.vllm.command == "vllm"
    write_setting(config, "engines.vllm.sleep_ttl", "5m")
    assert get_setting(load_settings(config, {}), "engines.vllm.sleep_ttl") == "5m"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[engines.vlm]\npython = 'x'", "vllm"),
        ("[engines.vllm]\npyton = 'x'", "python"),
        ("engines = 3", "table"),
        ("[engines.vllm]\nsleep_ttl = 'soon'", "sleep_ttl"),
    ],
)
def test_settings_that_nothing_reads_are_refused(tmp_path: Path, text: str, said: str) -> None:
    config = tmp_path / "config.toml"
    config.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_settings(config, {})
