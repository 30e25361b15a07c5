from __future__ import annotations

import stat
from pathlib import Path

from fcd.paths import resolve_paths


def test_fcd_home_holds_everything(tmp_path: Path) -> None:
    paths = resolve_paths({"FCD_HOME": str(tmp_path)})
    for path in (paths.config_file, paths.database, paths.daemon_log, paths.cache, paths.pidfile, paths.admin_token):
        assert path.is_relative_to(tmp_path)


def test_one_folder_can_be_moved(tmp_path: Path) -> None:
    paths = resolve_paths({"FCD_HOME": str(tmp_path), "FCD_DATA_DIR": str(tmp_path / "elsewhere")})
    assert paths.data == tmp_path / "elsewhere"
    assert paths.config == tmp_path / "config"


def test_a_long_folder_gets_a_short_place_for_sockets(tmp_path: Path) -> None:
    paths = resolve_paths({"FCD_HOME": str(tmp_path / ("x" * 100))})
    assert len(str(paths.sockets)) < 60
    assert paths.sockets == resolve_paths({"FCD_HOME": str(tmp_path / ("x" * 100))}).sockets


def test_the_runtime_folder_is_private(tmp_path: Path) -> None:
    paths = resolve_paths({"FCD_HOME": str(tmp_path / "home")})
    paths.create()
    assert stat.S_IMODE(paths.runtime.stat().st_mode) == 0o700
    assert paths.logs.is_dir()
