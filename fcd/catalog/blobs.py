"""Fetch a repo's large files so that an interrupted one goes on where it stopped.

The hub's library downloads into temporary files that it deletes when it is interrupted, and the last gigabytes of a
large file with them. Here a file grows in the cache's own `blobs` folder as `SHA256.incomplete`, is checked against its
hash, and takes its place; the library then finds it there.
"""

from __future__ import annotations

import hashlib
import queue
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from fcd.errors import ModelLoadError

LARGE = 1_000_000
"""Bytes from which a file is worth going on with."""

_PARALLEL = 4
_JOIN_S = 0.05
_ATTEMPTS = 5
"""Failures in a row, with nothing received between them, after which a download gives up."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_STALL_S = 30.0
_LOCK_POLL_S = 0.2

Advance = Callable[[int], None]
"""Called with bytes that arrived (or were there, or were lost again: below zero), from any thread; may raise."""


class Blob(msgspec.Struct, frozen=True):
    name: str
    url: str
    sha256: str
    size: int


def fetch_blobs(blobs: list[Blob], folder: Path, advance: Advance) -> None:
    """Bring them all to `folder/SHA256`.

    Raises:
        ModelLoadError: a file is not what the hub says that it is.
        httpx2.HTTPError: the hub does not answer; what arrived is kept.
    """
    for blob in blobs:
        if not _SHA256.fullmatch(blob.sha256):  # it names the file here, so it must not lead elsewhere
            raise ModelLoadError(f"The hub gives no SHA-256 for {blob.name}, so it was not downloaded.")
    folder.mkdir(parents=True, exist_ok=True)
    waiting, failures = queue.SimpleQueue[Blob](), list[BaseException]()
    for blob in blobs:
        waiting.put(blob)
    stopping = threading.Event()

    def step(count: int) -> None:
        if stopping.is_set():
            raise _Stopped
        advance(count)

    def work() -> None:
        try:
            while not stopping.is_set():
                fetch_blob(waiting.get_nowait(), folder, step)
        except (queue.Empty, _Stopped):
            pass
        except BaseException as error:
            failures.append(error)
            stopping.set()

    # Daemon threads: one that waits for a silent hub must not keep an interrupted program from ending.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(_PARALLEL, len(blobs)))]
    try:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) and not failures:
            for thread in threads:
                thread.join(_JOIN_S)
    finally:
        stopping.set()
    if failures:
        raise failures[0]


class _Stopped(Exception):
    """Another thread failed, or the person stopped it."""


def fetch_blob(blob: Blob, folder: Path, advance: Advance) -> None:
    """Bring one file to its place; nothing is done when it is there."""
    place = folder / blob.sha256
    partial = folder / f"{blob.sha256}.incomplete"
    with _only_one(partial.with_suffix(".lock"), advance):
        if place.exists():
            advance(blob.size)
            return
        with partial.open("ab") as stream:
            have = stream.tell()
            if have > blob.size:
                stream.truncate(0)
                have = 0
            advance(have)
            _receive(blob, stream, advance)
        _check(blob, partial, advance)
        partial.replace(place)


def _receive(blob: Blob, stream: IO[bytes], advance: Advance) -> None:
    """Until the file is whole, with some patience for connections that break."""
    import httpx2

    failures = 0
    while (have := stream.tell()) < blob.size:
        try:
            _receive_once(blob, stream, advance)
        except (httpx2.ConnectError, httpx2.TimeoutException, httpx2.RemoteProtocolError, httpx2.ReadError):
            failures = 0 if stream.tell() > have else failures + 1
            if failures >= _ATTEMPTS:
                raise
            advance(0)
            time.sleep(min(0.2 * 2**failures, 5.0))


def _receive_once(blob: Blob, stream: IO[bytes], advance: Advance) -> None:
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

    have = stream.tell()
    headers = {**build_hf_headers(), "Accept-Encoding": "identity", "Range": f"bytes={have}-"}
    with get_session().stream("GET", blob.url, headers=headers, timeout=_STALL_S) as answer:
        hf_raise_for_status(answer)
        if have and answer.status_code != 206:  # it sends the whole file
            stream.truncate(0)
            advance(-have)
        try:
            for chunk in answer.iter_raw():
                stream.write(chunk)
                advance(len(chunk))
        finally:
            stream.flush()


def _check(blob: Blob, partial: Path, advance: Advance) -> None:
    digest = hashlib.sha256()
    with partial.open("rb") as stream:
        while data := stream.read(8 * 1024 * 1024):
            digest.update(data)
            advance(0)
    if digest.hexdigest() != blob.sha256:
        partial.unlink()
        raise ModelLoadError(
            f"{blob.name} did not arrive as the hub has it (its hash differs), so it was thrown away.",
            hint="Pull it again; if it happens again, something between here and the hub changes files.",
        )


@contextmanager
def _only_one(file: Path, advance: Advance) -> Iterator[None]:
    """Wait while another process fetches the same file."""
    with file.open("ab") as lock:
        if sys.platform == "win32":  # the other process fails on the open file there
            yield
            return
        import fcntl

        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                advance(0)
                time.sleep(_LOCK_POLL_S)
        try:
            yield
        finally:
            file.unlink(missing_ok=True)
