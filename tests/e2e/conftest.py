from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.harness import Home, running_daemon


@pytest.fixture(scope="session")
def shared_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """One daemon for the tests that break nothing."""
    with running_daemon(tmp_path_factory.mktemp("home")) as home:
        yield home


@pytest.fixture
def own_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A daemon for a test that breaks it."""
    with running_daemon(tmp_path_factory.mktemp("home")) as home:
        yield home
