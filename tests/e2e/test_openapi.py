"""Requests made from /openapi.json, good ones and bad ones: never a 500, and no status that it does not tell of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest
from hypothesis import HealthCheck, settings

from daemon.openapi import document
from tests.e2e.harness import Home, running_daemon

schemathesis = pytest.importorskip("schemathesis")

pytestmark = pytest.mark.slow

ENDLESS = ("/api/events", "/api/battles/{id}/events")
"""Streams that end when the client leaves."""
OUTWARD = ("/api/heads", "/api/heads/leave", "/api/workers/attach", "/register_worker", "/refresh_all_workers")
"""They call addresses that the request names; their own tests give them some."""


@pytest.fixture(scope="module")
def described_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A daemon of its own: the requests make keys, after which nobody else could ask it without one."""
    with running_daemon(tmp_path_factory.mktemp("home")) as home:
        yield home


schema = schemathesis.openapi.from_dict(document()).exclude(path=[*ENDLESS, *OUTWARD])


def test_it_is_served_and_is_openapi(described_daemon: Home) -> None:
    described = httpx.get(f"{described_daemon.url}/openapi.json").json()
    assert described["openapi"].startswith("3.1")
    assert described["servers"] == [{"url": described_daemon.url}]
    page = httpx.get(f"{described_daemon.url}/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "<script" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for path in described["paths"]:
        assert path in page.text


@schema.parametrize()
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_500_and_no_surprise(case: Any, described_daemon: Home) -> None:
    shorten(case)
    token = (described_daemon.folder / "runtime" / "admin.token").read_text()
    headers = {"Authorization": f"Bearer {token}"}
    if case.method == "POST":
        headers["Content-Type"] = "application/json"
    answer = case.call(base_url=described_daemon.url, headers=headers, timeout=60)
    documented = set(case.operation.definition.raw["responses"])
    if case.method != case.operation.method.upper():
        documented = {"405", "400"}
    assert answer.status_code != 500, answer.text
    assert str(answer.status_code) in documented, (answer.status_code, answer.text[:500])
    if answer.status_code >= 400 and case.path != "/ready":
        assert set(answer.json()["error"]) >= {"message", "type", "param", "code"}


def shorten(case: Any) -> None:
    """Ask the model that is there, for little, so that many requests can be made."""
    body = case.body
    if not isinstance(body, dict):
        return
    if case.path.startswith("/v1/"):
        body["model"] = "guide"
        for field in ("max_tokens", "max_completion_tokens", "n", "best_of", "min_tokens"):
            if isinstance(body.get(field), int):
                body[field] = min(body[field], 2)
        if case.path != "/v1/embeddings" and "max_tokens" not in body:
            body["max_tokens"] = 2
    if case.path in ("/api/models/load", "/api/workers"):
        # Whatever the name means, it is not loaded: twelve models at once are another test's matter.
        body["model"] = f"no/such:{str(body.get('model', ''))[:50]}"
