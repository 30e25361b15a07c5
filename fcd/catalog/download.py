"""Bring a model's files to this machine, with progress, resuming what was begun before."""

from __future__ import annotations

import errno
import fnmatch
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fcd.catalog.blobs import LARGE, Blob, fetch_blobs
from fcd.catalog.hub import cached_snapshot, hub_cache, is_offline, repo_folder
from fcd.catalog.reference import Reference
from fcd.errors import FcdError, ModelLoadError, NotFound
from fcd.wire.admin import Progress

ProgressCallback = Callable[[Progress], None]
"""Called from any thread, often; raising an exception in it cancels the download."""

_TELL_S = 0.1
_WANTED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
_PICKLED = ("pytorch_model*.bin", "model*.bin")
_NEVER = ("consolidated*", "*.msgpack.index.json", "tf_model*", "flax_model*")


def ensure_local(
    reference: Reference,
    progress: ProgressCallback | None = None,
    *,
    allow_pickle: bool = False,
    refresh: bool = False,
) -> Path:
    """The folder with a model's files, downloaded when they are not there. Blocks: call it from a thread.

    A complete copy in the cache is used as it is, without asking the hub; `refresh` asks. Files that were begun before
    go on where they stopped.

    Raises:
        NotFound: the hub has no such repo or revision.
        ModelLoadError: offline, not reachable, not permitted, no room, or no weights that can be loaded safely.
    """
    if reference.kind in ("builtin", "folder") or (reference.kind == "cached" and not refresh):
        return _existing(reference)
    if not refresh:
        cached = cached_snapshot(reference.repo, reference.revision)
        if cached is not None:
            return cached
    if is_offline():
        raise ModelLoadError(
            f"{reference.repo} is not on this machine, and HF_HUB_OFFLINE forbids downloading it.",
            hint="Unset HF_HUB_OFFLINE, or copy the model here and give its folder. `fcd ls` lists what is here.",
        )
    return _download(reference.repo, reference.revision, progress or _ignore, allow_pickle)


def choose_files(names: Iterable[str], *, allow_pickle: bool = False) -> list[str]:
    """The files of a repo that running the model needs: weights, configuration, tokenizer; no code, no other formats.

    Pickled weights can run code while they are read: they are left out unless asked for, and even then only where
    there are no safetensors.

    Raises:
        ModelLoadError: nothing there can be loaded; says what there is instead.
    """
    top = [name for name in names if "/" not in name]
    chosen = [name for name in top if _matches(name, _WANTED) and not _matches(name, _NEVER)]
    if not any(name.endswith(".safetensors") for name in chosen):
        pickled = [name for name in top if _matches(name, _PICKLED)]
        if pickled and not allow_pickle:
            raise ModelLoadError(
                f"The repo has its weights as pickle only ({pickled[0]}), which can run code while it is read.",
                hint="`fcd pull REPO --allow-pickle` takes it all the same, if you trust who made it.",
            )
        if not pickled:
            other = next((name for name in top if name.endswith((".gguf", ".onnx", ".msgpack", ".h5"))), "")
            raise ModelLoadError(
                "The repo has no safetensors weights" + (f" (it has {other})." if other else "."),
                hint="Look for the same model in Hugging Face's own layout: config.json and *.safetensors.",
            )
        chosen += pickled
    if "config.json" not in chosen:
        raise ModelLoadError(
            "The repo has no config.json, so it is no model in Hugging Face's layout.",
            hint="An adapter alone cannot be run; pull the model that it belongs to.",
        )
    return sorted(chosen)


def _existing(reference: Reference) -> Path:
    path = reference.path
    if path is None or not (path / "config.json").is_file():
        raise ModelLoadError(
            f"The files of '{reference.name}' are missing ({path}).",
            hint="Install fcd again." if reference.kind == "builtin" else "`fcd ls` lists what is here.",
        )
    return path


def _download(repo: str, revision: str, progress: ProgressCallback, allow_pickle: bool) -> Path:
    import httpx2
    from huggingface_hub import HfApi, hf_hub_url, snapshot_download
    from huggingface_hub.utils import logging as hub_logging

    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    progress(Progress("downloading", detail=f"asking the hub for {repo}"))
    try:
        info = HfApi().model_info(repo, revision=revision or None, files_metadata=True)
        there = {file.rfilename: file for file in info.siblings or []}
        sizes = {name: file.size or 0 for name, file in there.items()}
        files = choose_files(sizes, allow_pickle=allow_pickle)
        total = sum(sizes[name] for name in files)
        _check_room(repo, total)
        counter = _Counter(total, progress, f"{repo}, {len(files)} files")
        large = [
            Blob(name, hf_hub_url(repo, name, revision=info.sha), lfs.sha256, sizes[name])
            for name in files
            if (lfs := there[name].lfs) is not None and sizes[name] >= LARGE
        ]
        fetch_blobs(large, repo_folder(repo) / "blobs", counter.advance)
        folder = snapshot_download(
            repo,
            revision=revision or None,
            cache_dir=hub_cache(),
            allow_patterns=[_escape(name) for name in files],
            tqdm_class=_bar_class(counter),
        )
    except FcdError:
        raise
    except (httpx2.HTTPError, OSError, ValueError) as error:
        raise _explain(repo, revision, error) from error
    counter.finish()
    return Path(folder)


def _check_room(repo: str, total: int) -> None:
    """Say it before the download, not after most of it."""
    cache = hub_cache()
    here = next((folder for folder in (cache, *cache.parents) if folder.exists()), Path("/"))
    begun = repo_folder(repo, cache) / "blobs"
    have = sum(blob.stat().st_size for blob in begun.iterdir()) if begun.is_dir() else 0
    free = shutil.disk_usage(here).free
    if total - have > free:
        raise ModelLoadError(
            f"{repo} needs {(total - have) / 1e9:.1f} GB, and {here} has {free / 1e9:.1f} GB free.",
            hint="`fcd rm MODEL` removes models; HF_HOME moves the cache to another disk.",
        )


def _explain(repo: str, revision: str, error: Exception) -> FcdError:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return ModelLoadError(
            f"{repo} is gated: its owner wants you to agree to terms first.",
            hint=f"Agree on https://huggingface.co/{repo}, then set HF_TOKEN to a token of yours.",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return NotFound(f"{repo} has no revision '{revision}'.", hint=f"See https://huggingface.co/{repo}/tree/main.")
    if isinstance(error, errors.RepositoryNotFoundError):
        return NotFound(
            f"The hub has no model {repo}, or it is private.",
            hint="Check the spelling (owner/name); for a private model set HF_TOKEN.",
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return ModelLoadError(f"The disk is full: {repo} was not downloaded wholly.", hint="Make room and try again.")
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return ModelLoadError(
        f"{repo} could not be downloaded: {reason}",
        hint="Try again: what arrived is kept. HF_ENDPOINT names another hub; HF_TOKEN signs in.",
    )


class _Counter:
    """Adds up the large files' bytes and what the hub library's bars report of the small ones, and tells it on."""

    def __init__(self, total: int, progress: ProgressCallback, detail: str) -> None:
        self._total = total
        self._progress = progress
        self._detail = detail
        self._large = 0
        self._small = 0
        self._told = 0.0
        self._lock = threading.Lock()

    def advance(self, count: int) -> None:
        """Bytes of a large file."""
        with self._lock:
            self._large += count
        self._tell()

    def report(self, done: float) -> None:
        """The bytes of all small files so far, as one of the library's bars has counted them."""
        with self._lock:
            self._small = max(self._small, int(done))
        self._tell()

    def finish(self) -> None:
        self._progress(Progress("downloading", self._total, self._total, "bytes", self._detail))

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told < _TELL_S:
            return
        self._told = now
        done = min(self._large + self._small, self._total)
        self._progress(Progress("downloading", done, self._total, "bytes", self._detail))


class _Bar:
    """What huggingface_hub needs of a progress bar: it draws nothing."""

    counter: _Counter

    def __init__(self, *args: Any, **options: Any) -> None:
        self.n: float = options.get("initial") or 0
        self.total = options.get("total")
        self._bytes = options.get("unit") == "B"
        self._items = args[0] if args else ()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def __iter__(self) -> Any:
        return iter(self._items)

    def update(self, n: float | None = 1) -> None:
        with self._lock:
            self.n += n or 0
            done = self.n
        if self._bytes:
            self.counter.report(done)

    @property
    def format_dict(self) -> Mapping[str, Any]:
        return {"rate": None}

    def close(self) -> None: ...

    def refresh(self, *args: Any, **options: Any) -> None: ...

    def set_description(self, *args: Any, **options: Any) -> None: ...

    def set_description_str(self, *args: Any, **options: Any) -> None: ...

    def set_postfix_str(self, *args: Any, **options: Any) -> None: ...


def _bar_class(counter: _Counter) -> Any:
    return type("_CountingBar", (_Bar,), {"counter": counter})


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _escape(name: str) -> str:
    return name.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]")


def _ignore(progress: Progress) -> None:
    return None
