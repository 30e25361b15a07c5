"""transformers' progress bars, told to a callback instead of a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from daemon.engines.base import LoadProgress


class _Counter:
    """Enough of tqdm for transformers: iteration, update, close, context manager."""

    def __init__(self, report: LoadProgress, iterable: Iterable[Any] | None, total: float | None) -> None:
        self._report = report
        self._iterable = iterable
        self.n = 0.0
        size = getattr(iterable, "__len__", None)
        self.total = float(total if total is not None else size() if size is not None else 0)
        report("weights", 0.0, self.total)

    def __iter__(self) -> Iterator[Any]:
        for item in self._iterable or ():
            yield item
            self.update()

    def __enter__(self) -> _Counter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def update(self, n: float = 1.0) -> None:
        self.n += n
        self._report("weights", self.n, self.total)

    def close(self) -> None:
        """Nothing to close."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("set_") or name in {"refresh", "reset", "clear", "write"}:
            return lambda *args, **kwargs: None
        raise AttributeError(name)


@contextmanager
def report_progress(report: LoadProgress) -> Iterator[None]:
    """Send the progress of loading weights to `report` while inside."""
    from transformers.utils import logging

    def hook(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _Counter(report, args[0] if args else kwargs.get("iterable"), kwargs.get("total"))

    previous = logging.set_tqdm_hook(hook)
    try:
        yield
    finally:
        logging.set_tqdm_hook(previous)
