"""The Hugging Face hub's cache on this machine, read without huggingface_hub (whose import takes a third of a second).

Its layout: `models--OWNER--NAME/{blobs,refs/REVISION,snapshots/COMMIT/FILE}`; a snapshot's files are links to blobs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

_COMMIT = re.compile(r"^[0-9a-f]{40}$")
_TRUE = frozenset({"1", "on", "yes", "true"})


class CachedRepo(msgspec.Struct, frozen=True):
    """A model in the cache whose files are complete."""

    repo: str
    path: Path
    """The snapshot's folder."""
    size_bytes: int


def hub_cache(environ: Mapping[str, str] | None = None) -> Path:
    """Where huggingface_hub keeps its downloads, by the same variables that it reads."""
    env = os.environ if environ is None else environ
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if env.get(name):
            return Path(env[name]).expanduser()
    if env.get("HF_HOME"):
        return Path(env["HF_HOME"]).expanduser() / "hub"
    base = env.get("XDG_CACHE_HOME") or str(Path(env.get("HOME", "~")).expanduser() / ".cache")
    return Path(base).expanduser() / "huggingface" / "hub"


def is_offline(environ: Mapping[str, str] | None = None) -> bool:
    """Whether the environment forbids downloads."""
    env = os.environ if environ is None else environ
    return any(env.get(name, "").lower() in _TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def repo_folder(repo: str, cache: Path | None = None) -> Path:
    """Where a repo is kept, whether it is there or not."""
    return (cache or hub_cache()) / ("models--" + repo.replace("/", "--"))


def cached_snapshot(repo: str, revision: str = "", *, cache: Path | None = None) -> Path | None:
    """The folder of a downloaded model, or None when it is not there or not complete."""
    folder = repo_folder(repo, cache)
    wanted = revision or "main"
    commit = wanted if _COMMIT.match(wanted) else _read_ref(folder, wanted)
    if commit:
        snapshot = folder / "snapshots" / commit
        return snapshot if is_complete(snapshot) else None
    return None


def cached_repos(cache: Path | None = None) -> Iterator[CachedRepo]:
    """Every complete model in the cache, by name."""
    root = cache or hub_cache()
    try:
        folders = sorted(entry.name for entry in os.scandir(root) if entry.name.startswith("models--"))
    except OSError:
        return
    for name in folders:
        repo = name.removeprefix("models--").replace("--", "/")
        snapshot = cached_snapshot(repo, cache=root)
        if snapshot is not None:
            yield CachedRepo(repo, snapshot, folder_size(snapshot))


def is_complete(folder: Path) -> bool:
    """Whether a folder holds a configuration and every weight file that its index names."""
    if not (folder / "config.json").is_file():
        return False
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (folder / index).is_file():
            shards = _shards(folder / index)
            return bool(shards) and all((folder / shard).is_file() for shard in shards)
    return any(path.is_file() for path in weight_files(folder))


def weight_files(folder: Path) -> list[Path]:
    """The folder's weights: safetensors where there are any, else pickled ones."""
    for pattern in ("*.safetensors", "pytorch_model*.bin"):
        found = sorted(folder.glob(pattern))
        if found:
            return found
    return []


def folder_size(folder: Path) -> int:
    """Bytes of the files in a folder, links followed."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def remove_repo(repo: str, cache: Path | None = None) -> int:
    """Delete a repo from the cache, every revision of it; returns the bytes that became free."""
    folder = repo_folder(repo, cache)
    size = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    shutil.rmtree(folder)
    shutil.rmtree(folder.parent / ".locks" / folder.name, ignore_errors=True)
    return size


def _read_ref(folder: Path, revision: str) -> str:
    try:
        return (folder / "refs" / revision).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def _shards(index: Path) -> set[str]:
    """The files that an index names; none when it cannot be read, as when it was cut short."""
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()
    return {str(name) for name in names}
