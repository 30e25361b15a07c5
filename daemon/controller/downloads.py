"""Downloads that the daemon runs: in threads of their own, so that a screen may leave and come back."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fcd.errors import ApiError, FcdError
from fcd.wire.admin import ModelOptions, Progress
from fcd.wire.downloads import Download, DownloadList, DownloadRequest, DownloadState

AT_ONCE = 2
KEPT = 32
"""Downloads that are told of; the oldest that are over are forgotten for others."""
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,199}", re.ASCII)
_SPAN_S = 5.0
"""Speeds are over this time."""

Step = Callable[[Progress], None]
Fetch = Callable[[DownloadRequest, Step], Path]
"""Brings a repo here and blocks meanwhile; an exception from the step ends it."""
Forget = Callable[[str], None]
"""Removes what has arrived of a repo that is not complete."""


class _Stopped(Exception):
    """A person asked."""


@dataclass
class _Job:
    request: DownloadRequest
    state: DownloadState = "downloading"
    progress: Progress | None = None
    error: str = ""
    stop: threading.Event = field(default_factory=threading.Event)
    forget: bool = False
    marks: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=200))

    @property
    def busy(self) -> bool:
        return self.state in ("downloading", "stopping")

    def speed(self, now: float) -> float:
        while len(self.marks) > 1 and self.marks[0][0] < now - _SPAN_S:
            self.marks.popleft()
        if self.state != "downloading" or len(self.marks) < 2 or now <= self.marks[0][0]:
            return 0.0
        return max(0.0, (self.marks[-1][1] - self.marks[0][1]) / (now - self.marks[0][0]))


class Downloads:
    """Begins, pauses and cancels. Used from the event loop only; the threads report through it."""

    def __init__(
        self,
        done: Callable[[], object],
        fetch: Fetch | None = None,
        forget: Forget | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            done: called on the event loop when a model has arrived or what was begun of one is gone.
            fetch: how a repo is brought here.
            forget: how what was begun is removed.
            clock: seconds.
        """
        self._done = done
        self._fetch = fetch or fetch_repo
        self._forget = forget or forget_partial
        self._clock = clock
        self._jobs: dict[str, _Job] = {}

    def list(self) -> DownloadList:
        now = self._clock()
        return DownloadList([_told(job, now) for job in reversed(self._jobs.values())])

    def start(self, request: DownloadRequest) -> Download:
        """Begin a download, or go on with one.

        Raises:
            ApiError: 400 for what is no repo's name, 409 while it stops, 429 when enough are running.
        """
        from fcd.catalog.reference import is_repo_name

        if not is_repo_name(request.repo):
            raise ApiError(400, f"'{request.repo[:200]}' is no repo; give owner/name.", param="repo")
        if request.revision and (not _REVISION.fullmatch(request.revision) or ".." in request.revision):
            raise ApiError(400, "'revision' must be a branch, a tag or a commit.", param="revision")
        known = self._jobs.get(request.repo)
        if known is not None and known.busy:
            if known.state == "stopping":
                raise ApiError(409, f"{request.repo} is just being stopped; try again.", code="stopping", retry_after=1)
            return _told(known, self._clock())
        if sum(job.busy for job in self._jobs.values()) >= AT_ONCE:
            raise ApiError(
                429, f"{AT_ONCE} downloads are running, as many as may; pause one.", code="overloaded", retry_after=30
            )
        self._jobs.pop(request.repo, None)
        over = [repo for repo, job in self._jobs.items() if not job.busy]
        for repo in over[: max(0, len(self._jobs) + 1 - KEPT)]:
            del self._jobs[repo]
        job = self._jobs[request.repo] = _Job(request)
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, args=(job, loop), name=f"download {request.repo}", daemon=True).start()
        return _told(job, self._clock())

    def pause(self, repo: str) -> None:
        """Stop; what arrived stays. Raises ApiError 404."""
        job = self._find(repo)
        if job.state == "downloading":
            job.state = "stopping"
            job.stop.set()

    def cancel(self, repo: str) -> None:
        """Stop, remove what was begun, and tell of it no more. Raises ApiError 404."""
        job = self._find(repo)
        if job.state == "done":
            del self._jobs[repo]
        elif job.busy:
            job.state, job.forget = "stopping", True
            job.stop.set()
        else:
            self._remove(job)

    def close(self) -> None:
        """Let all of them end; none holds up the daemon's own end."""
        for job in self._jobs.values():
            job.stop.set()

    def _find(self, repo: str) -> _Job:
        job = self._jobs.get(repo)
        if job is None:
            raise ApiError(404, f"There is no download of '{repo}'.", code="not_found")
        return job

    def _run(self, job: _Job, loop: asyncio.AbstractEventLoop) -> None:
        def step(progress: Progress) -> None:
            if job.stop.is_set():
                raise _Stopped
            job.progress = progress
            job.marks.append((self._clock(), progress.done))

        state: DownloadState = "done"
        try:
            self._fetch(job.request, step)
        except _Stopped:
            state = "paused"
        except FcdError as error:
            state, job.error = "failed", str(error)
        except Exception as error:
            state, job.error = "failed", f"{type(error).__name__}: {error}"
        with contextlib.suppress(RuntimeError):  # the daemon has ended meanwhile
            loop.call_soon_threadsafe(self._ended, job, "paused" if job.stop.is_set() and state == "failed" else state)

    def _ended(self, job: _Job, state: DownloadState) -> None:
        if job.forget and state != "done":
            self._remove(job)
            return
        job.state = state
        if job.forget:
            self._gone(job)
        else:
            self._done()

    def _remove(self, job: _Job) -> None:
        """It is told of until its files are gone: a download that began before would lose its own."""
        job.state = "stopping"
        repo, loop = job.request.repo, asyncio.get_running_loop()

        def forget() -> None:
            try:
                self._forget(repo)
            finally:
                with contextlib.suppress(RuntimeError):  # the daemon has ended meanwhile
                    loop.call_soon_threadsafe(self._gone, job)

        threading.Thread(target=forget, name=f"forget {repo}", daemon=True).start()

    def _gone(self, job: _Job) -> None:
        if self._jobs.get(job.request.repo) is job:
            del self._jobs[job.request.repo]
        self._done()


def _told(job: _Job, now: float) -> Download:
    return Download(job.request.repo, job.state, job.progress, job.speed(now), job.error)


def fetch_repo(request: DownloadRequest, step: Step) -> Path:
    """From the hub, as `fcd pull` does it."""
    from fcd.catalog import ensure_local
    from fcd.catalog.reference import Reference

    options = ModelOptions(revision=request.revision)
    reference = Reference(name=request.repo, kind="repo", repo=request.repo, options=options)
    return ensure_local(reference, step, allow_pickle=request.allow_pickle, refresh=True)


def forget_partial(repo: str) -> None:
    """Remove a repo's files that are not whole; all of it where no revision is complete."""
    from fcd.catalog.hub import is_complete, remove_repo, repo_folder

    folder = repo_folder(repo)
    if not any(is_complete(snapshot) for snapshot in (folder / "snapshots").glob("*")):
        with contextlib.suppress(FcdError, OSError):
            remove_repo(repo)
        return
    for file in (folder / "blobs").glob("*.incomplete"):
        file.unlink(missing_ok=True)
