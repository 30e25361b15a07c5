"""Where fcd keeps its files.

platformdirs decides, `FCD_HOME` puts everything under one folder, and `FCD_<KIND>_DIR` moves one folder.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import msgspec
from platformdirs import PlatformDirs

from fcd.errors import FcdError

_SOCKET_PATH_LIMIT = 90
"""A unix socket's path may hold 104 bytes on macOS and 108 on Linux; workers' names need some of them."""


class Paths(msgspec.Struct, frozen=True):
    """The folders, none of which need exist yet."""

    config: Path
    data: Path
    state: Path
    cache: Path
    runtime: Path

    @property
    def config_file(self) -> Path:
        return self.config / "config.toml"

    @property
    def database(self) -> Path:
        return self.data / "fcd.db"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def daemon_log(self) -> Path:
        return self.logs / "daemon.log"

    @property
    def pidfile(self) -> Path:
        return self.runtime / "daemon.json"

    @property
    def lockfile(self) -> Path:
        return self.runtime / "daemon.lock"

    @property
    def admin_token(self) -> Path:
        return self.runtime / "admin.token"

    @property
    def worker_settings(self) -> Path:
        """The settings in force, as the daemon writes them for the workers that it starts."""
        return self.runtime / "settings.json"

    @property
    def sockets(self) -> Path:
        """Where workers put their unix sockets: the runtime folder, or a short stand-in for a path too long."""
        if len(str(self.runtime)) <= _SOCKET_PATH_LIMIT - 30:
            return self.runtime
        import hashlib  # only for long paths, and every command starts here
        import tempfile

        digest = hashlib.sha256(str(self.runtime).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"fcd-{os.getuid() if hasattr(os, 'getuid') else 0}-{digest}"

    def create(self) -> None:
        """Make the folders; the runtime ones are private to the user.

        Raises:
            FcdError: one cannot be made.
        """
        for folder in (self.config, self.data, self.state, self.cache, self.logs):
            _make(folder, 0o777)
        for folder in (self.runtime, self.sockets):
            _make(folder, 0o700)


def _make(folder: Path, mode: int) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=mode)
    except OSError as error:
        raise FcdError(
            f"The folder {folder} cannot be made: {error.strerror or error}.",
            hint="`fcd doctor` checks every folder; FCD_HOME puts all of them somewhere else.",
        ) from error


def resolve_paths(environ: Mapping[str, str] | None = None) -> Paths:
    """The folders for this environment."""
    env = os.environ if environ is None else environ
    home = env.get("FCD_HOME")
    if home:
        root = Path(home).expanduser().absolute()
        base = {kind: root / kind for kind in ("config", "data", "state", "cache", "runtime")}
    else:
        dirs = PlatformDirs("fcd", appauthor=False)
        base = {
            "config": dirs.user_config_path,
            "data": dirs.user_data_path,
            "state": dirs.user_state_path,
            "cache": dirs.user_cache_path,
            "runtime": _runtime(dirs),
        }
    for kind in base:
        moved = env.get(f"FCD_{kind.upper()}_DIR")
        if moved:
            base[kind] = Path(moved).expanduser().absolute()
    return Paths(**base)


def _runtime(dirs: PlatformDirs) -> Path:
    with warnings.catch_warnings():  # platformdirs warns where XDG_RUNTIME_DIR is not set; the line below decides
        warnings.simplefilter("ignore")
        runtime = dirs.user_runtime_path
    if runtime.parent.is_dir() and os.access(runtime.parent, os.W_OK):
        return runtime
    return dirs.user_state_path / "run"
