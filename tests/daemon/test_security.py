"""The table of what routes require, and the checks that apply it, over real sockets and on every route."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.access import Need, host_name, is_loopback, is_same_origin, need_of, split_join_path
from daemon.controller.controller import Controller
from daemon.lifecycle import Server, bind, open_context, url_of
from daemon.logs import without_secrets
from fcd.errors import FcdError
from fcd.paths import resolve_paths
from fcd.settings import Settings
from tests.daemon.harness import CHAT, FakeController, Running, answer, asks, daemon, error_of, run, worker


def routes_of(fcd: Running) -> list[tuple[str, str, str]]:
    """Every method, rule and example path that the router knows."""
    found = []
    for route in fcd.server.app.router.routes:
        path = "/" + re.sub(r"<[^>]+>", "x", route.path)
        found += [(method, f"/{route.path}", path) for method in sorted(route.methods)]
    return found


def test_the_table_knows_every_route() -> None:
    async def main() -> None:
        async with daemon() as fcd:
            routes = routes_of(fcd)
            assert len(routes) > 20
            unknown = [rule for _, rule, path in routes if need_of(path) is None]
            assert unknown == []

    run(main())


def test_every_route_is_closed_without_a_key_once_there_is_one() -> None:
    async def main() -> None:
        async with daemon() as fcd:
            await fcd.context.security.create("key", name="a", scope="inference")
            for headers in ({}, {"Authorization": "Bearer fcd-k-00000000-wrong"}, {"Authorization": "Bearer x"}):
                for method, rule, path in routes_of(fcd):
                    got = await fcd.http.request(method, path, headers=headers)
                    if need_of(path) in (Need.OPEN, Need.METRICS):
                        assert got.status_code in (200, 503), rule
                    else:
                        assert got.status_code == 401, (method, rule, got.text)
                        error_of(got)

    run(main())


def test_every_route_of_the_real_controller_is_closed(tmp_path: Path) -> None:
    async def main() -> None:
        paths = resolve_paths({"FCD_HOME": str(tmp_path)})
        paths.create()
        listener = bind("127.0.0.1", 0)
        context = await open_context(Settings(), paths, url_of(listener), Controller)
        server = Server(context, listener)
        await server.start()
        try:
            await context.security.create("key", name="a", scope="inference")
            routes = [
                (method, "/" + re.sub(r"<[^>]+>", "x", route.path))
                for route in server.app.router.routes
                for method in route.methods
            ]
            assert ("POST", "/register_worker") in routes
            assert ("GET", "/api/events") in routes
            paths_of = {path for _, path in routes}
            assert paths_of > {"/api/chats", "/api/presets", "/api/devices", "/api/downloads", "/v1/responses"}
            inference = {path for path in paths_of if need_of(path) is Need.INFERENCE}
            assert not [path for path in inference if path.startswith(("/api/chats", "/api/presets", "/api/d"))]
            async with httpx.AsyncClient(base_url=context.url) as http:
                for method, path in routes:
                    need = need_of(path)
                    assert need is not None, path
                    got = await http.request(method, path)
                    if need not in (Need.OPEN, Need.METRICS):
                        assert got.status_code == 401, (method, path)
                        error_of(got)
        finally:
            await server.close()
            await context.store.close()

    run(main())


def test_admin_routes_are_closed_from_the_start() -> None:
    async def main() -> None:
        async with daemon() as fcd:
            key, _ = await fcd.context.security.create("key", name="a", scope="inference")
            for method, rule, path in routes_of(fcd):
                if need_of(path) is not Need.ADMIN:
                    continue
                assert (await fcd.http.request(method, path)).status_code == 401, rule
                got = await fcd.http.request(method, path, headers={"Authorization": f"Bearer {key}"})
                assert got.status_code == 403, rule
            assert (await fcd.http.get("/api/status", headers=fcd.admin)).status_code == 200

    run(main())


def test_inference_is_open_on_loopback_until_a_key_exists() -> None:
    async def main() -> None:
        async with worker(answer(b"{}")) as first, daemon(first.target) as fcd:
            assert (await fcd.http.post(CHAT, json=asks())).status_code == 200
            any_key = {"Authorization": "Bearer EMPTY"}  # clients that insist on sending one
            assert (await fcd.http.post(CHAT, json=asks(), headers=any_key)).status_code == 200
            key, info = await fcd.context.security.create("key", name="a", scope="inference")
            assert (await fcd.http.post(CHAT, json=asks())).status_code == 401
            assert (await fcd.http.post(CHAT, json=asks(), headers=any_key)).status_code == 401
            good = {"Authorization": f"Bearer {key}"}
            assert (await fcd.http.post(CHAT, json=asks(), headers=good)).status_code == 200
            assert (await fcd.http.post(CHAT, json=asks(), headers=fcd.admin)).status_code == 200
            await fcd.context.security.revoke("key", info.id)
            assert (await fcd.http.post(CHAT, json=asks())).status_code == 200

    run(main())


def test_join_tokens_open_registration_and_reading_and_nothing_else() -> None:
    async def main() -> None:
        async with daemon() as fcd:
            token, info = await fcd.context.security.create("token", name="box", scope="join")
            bearer = {"Authorization": f"Bearer {token}"}
            assert (await fcd.http.post("/register_worker", content=b"{}")).status_code == 401
            assert (await fcd.http.post("/register_worker", content=b"{}", headers=bearer)).json()["name"] == info.id
            through_path = await fcd.http.post(f"/join/{token}/register_worker", content=b"{}")
            assert through_path.json() == {"kind": "token", "name": info.id, "path": "/register_worker"}
            assert (await fcd.http.post(f"/join/{token}/list_models")).status_code == 200
            assert (await fcd.http.get(f"/join/{token}/test_connection")).status_code == 200
            for closed in ("/v1/models", "/api/status", "/health", f"/join/{token}/list_models", "/"):
                assert (await fcd.http.get(f"/join/{token}{closed}")).status_code == 404, closed
            assert (await fcd.http.post("/join/wrong/register_worker")).status_code == 401
            assert (await fcd.http.get("/api/status", headers=bearer)).status_code == 403
            await fcd.context.security.create("key", name="a", scope="inference")
            assert (await fcd.http.get("/v1/models", headers=bearer)).status_code == 403
            await fcd.context.security.revoke("token", "box")
            assert (await fcd.http.post("/register_worker", headers=bearer)).status_code == 401

    run(main())


def test_a_worker_s_own_token_says_which_worker_it_is() -> None:
    async def main() -> None:
        async with daemon() as fcd:
            token = fcd.context.security.issue_worker_token("guide-1")
            bearer = {"Authorization": f"Bearer {token}"}
            got = await fcd.http.post("/register_worker", headers=bearer)
            assert got.json() == {"kind": "worker", "name": "guide-1", "path": "/register_worker"}
            fcd.context.security.withdraw_worker_token(token)
            assert (await fcd.http.post("/register_worker", headers=bearer)).status_code == 401

    run(main())


def test_expired_keys_are_refused_and_still_close_the_door() -> None:
    async def main() -> None:
        async with daemon() as fcd:
            key, _ = await fcd.context.security.create("key", name="a", scope="inference", ttl_s=0.001)
            got = await fcd.http.get("/v1/models", headers={"Authorization": f"Bearer {key}"})
            assert got.status_code == 401
            assert (await fcd.http.get("/v1/models")).status_code == 401

    run(main())


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "10.1.2.3", "[::2]:1"])
def test_foreign_host_names_are_refused(host: str) -> None:
    async def main() -> None:
        async with daemon() as fcd:
            for path in ("/health", "/v1/models", "/nowhere"):
                got = await fcd.http.get(path, headers={"Host": host})
                assert got.status_code == 403
                error_of(got)

    run(main())


def test_local_and_allowed_host_names_are_answered() -> None:
    async def main() -> None:
        async with daemon(allowed_hosts=["box.lan"]) as fcd:
            for host in ("localhost", "127.0.0.1:1", "fcd.localhost:8000", "[::1]:8000", "box.lan", "BOX.LAN:80"):
                assert (await fcd.http.get("/health", headers={"Host": host})).status_code == 200, host

    run(main())


def test_web_pages_elsewhere_are_refused_and_told_nothing() -> None:
    async def main() -> None:
        async with daemon() as fcd:
            for origin in ("https://evil.example", "null", "http://localhost:1", f"ftp://127.0.0.1:{fcd.port}"):
                for method in ("GET", "OPTIONS", "POST"):
                    got = await fcd.http.request(method, "/v1/models", headers={"Origin": origin})
                    assert got.status_code == 403
                    assert not [name for name in got.headers if name.startswith("access-control")]
            own = await fcd.http.get("/v1/models", headers={"Origin": fcd.url})
            assert own.status_code == 200
            assert "access-control-allow-origin" not in own.headers

    run(main())


def test_an_allowed_origin_gets_its_preflight() -> None:
    async def main() -> None:
        page = {"Origin": "https://chat.example"}
        async with daemon(allowed_origins=["https://chat.example"]) as fcd:
            before = await fcd.http.options(CHAT, headers={**page, "Access-Control-Request-Method": "POST"})
            assert before.status_code == 204
            assert before.headers["access-control-allow-origin"] == "https://chat.example"
            assert "Authorization" in before.headers["access-control-allow-headers"]
            assert before.headers["access-control-allow-headers"].endswith(", *"), "browsers' clients send their own"
            got = await fcd.http.get("/v1/models", headers=page)
            assert got.headers["access-control-allow-origin"] == "https://chat.example"
            assert got.headers["vary"] == "Origin"
            other = await fcd.http.get("/v1/models", headers={"Origin": "https://evil.example"})
            assert other.status_code == 403

    run(main())


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", "multipart/form-data"])
def test_bodies_must_say_that_they_are_json(content_type: str) -> None:
    async def main() -> None:
        async with daemon() as fcd:
            headers = {"Content-Type": content_type} if content_type else {}
            got = await fcd.http.post(CHAT, content=b'{"model":"m"}', headers=headers)
            assert got.status_code == 415
            error_of(got)
            got = await fcd.http.post("/api/keys", content=b"{}", headers={**headers, **fcd.admin})
            assert got.status_code == 415
            token = fcd.context.security.issue_worker_token("w")
            got = await fcd.http.post(f"/join/{token}/register_worker", content=b"{}", headers=headers)
            assert got.status_code == 200  # FastChat's workers label nothing

    run(main())


@pytest.mark.parametrize("path", [CHAT, "/v1/responses", "/tokenize", "/api/keys", "/api/workers", "/register_worker"])
def test_bodies_that_are_packed_are_refused_by_that_name(path: str) -> None:
    async def main() -> None:
        async with daemon() as fcd:
            for encoding in ("gzip", "br", "identity, zstd"):
                headers = {"Content-Type": "application/json", "Content-Encoding": encoding, **fcd.admin}
                got = await fcd.http.post(path, content=gzip.compress(b'{"model":"m"}'), headers=headers)
                assert (got.status_code, error_of(got)["code"]) == (415, "unsupported_media_type")
                assert f"Content-Encoding: {encoding}" in error_of(got)["message"]

    run(main())


def test_paths_cannot_be_spelled_around_the_table() -> None:
    async def main() -> None:
        async with daemon() as fcd:
            await fcd.context.security.create("key", name="a", scope="inference")
            spellings = [
                "//api/status",
                "/api//status",
                "/API/status",
                "/api/status/",
                "/%61pi/status",
                "/./api/status",
                "/health/../api/status",
                "/api/status?x=/health",
                "/api/status;/health",
                "/" * 4000,
            ]
            for path in spellings:
                got = await fcd.http.get(fcd.url + path)
                assert got.status_code in (401, 404), (path, got.status_code)
            assert (await fcd.http.get(f"{fcd.url}//api/status", headers=fcd.admin)).status_code == 200

    run(main())


def test_keys_are_made_listed_and_revoked_over_the_api() -> None:
    async def main() -> None:
        async with daemon() as fcd:
            made = (await fcd.http.post("/api/keys", json={"name": "laptop"}, headers=fcd.admin)).json()
            assert made["secret"].startswith("fcd-k-")
            stored = fcd.paths.database.read_bytes() + fcd.paths.database.with_name("fcd.db-wal").read_bytes()
            assert made["secret"].encode() not in stored
            assert made["secret"].rsplit("-", 1)[-1].encode() not in stored
            listed = (await fcd.http.get("/api/keys", headers=fcd.admin)).json()["credentials"]
            assert [(each["id"], each["name"], each["scope"]) for each in listed] == [
                (made["credential"]["id"], "laptop", "inference")
            ]
            good = {"Authorization": f"Bearer {made['secret']}"}
            assert (await fcd.http.get("/v1/models", headers=good)).status_code == 200
            assert (await fcd.http.delete("/api/keys/laptop", headers=fcd.admin)).status_code == 200
            assert (await fcd.http.delete("/api/keys/laptop", headers=fcd.admin)).status_code == 404
            for bad in ({"scope": "root"}, {"name": "x" * 101}, {"unknown": 1}, {"ttl_s": -1}):
                got = await fcd.http.post("/api/keys", json=bad, headers=fcd.admin)
                assert got.status_code == 400
                assert error_of(got)["param"] == next(iter(bad))

    run(main())


def test_it_will_not_listen_beyond_this_machine_without_a_key(tmp_path: Any) -> None:
    async def main() -> None:
        paths = resolve_paths({"FCD_HOME": str(tmp_path)})
        paths.create()
        settings = Settings()
        settings.daemon.host = "0.0.0.0"
        with pytest.raises(FcdError, match="without an API key") as caught:
            await open_context(settings, paths, "", lambda _: FakeController())
        assert "fcd key create" in caught.value.hint
        local = await open_context(Settings(), paths, "", lambda _: FakeController())
        await local.security.create("key", name="a", scope="inference")
        await local.store.close()
        wide = await open_context(settings, paths, "", lambda _: FakeController())
        await wide.store.close()

    run(main())


def test_the_admin_token_is_fresh_and_private(tmp_path: Any) -> None:
    async def main() -> None:
        seen = set()
        for _ in range(2):
            async with daemon() as fcd:
                assert fcd.paths.admin_token.stat().st_mode & 0o777 == 0o600
                assert fcd.paths.database.stat().st_mode & 0o777 == 0o600
                seen.add(fcd.paths.admin_token.read_text())
        assert len(seen) == 2

    run(main())


def test_a_taken_port_is_named() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(FcdError, match=f"Port {port} on 127.0.0.1 is taken") as caught:
            bind("127.0.0.1", port)
        assert "--port" in caught.value.hint


def test_hosts_and_origins_are_read_strictly() -> None:
    assert host_name("LocalHost:80") == "localhost"
    assert host_name("[::1]:80") == "::1"
    for bad in ("", "a b/c", "user@localhost", "localhost:x", "localhost/x", "a?b"):
        assert host_name(bad) == "", bad
    assert is_loopback("127.9.9.9")
    assert not is_loopback("127.0.0.1.evil.example")
    assert not is_loopback("0.0.0.0")
    assert is_same_origin("http://localhost:8000", "localhost:8000")
    assert not is_same_origin("http://localhost:8000", "localhost:8001")
    assert not is_same_origin("null", "localhost:8000")
    assert split_join_path("/join/abc/x/y") == ("abc", "/x/y")
    assert split_join_path("/v1/models") is None


@given(st.text(alphabet="/abcdpi-v1heltoknw_.%", max_size=30))
def test_only_known_paths_are_in_the_table(path: str) -> None:
    need = need_of("/" + path)
    if need is Need.OPEN:
        assert ("/" + path).rstrip("/") in ("/health", "/ready", "/docs", "/openapi.json")


def test_secrets_are_kept_out_of_logs() -> None:
    secret = "fcd-k-1a2b3c4d-" + "s" * 43
    for text in (f"key {secret}", f"Authorization: Bearer {secret}", f"POST /join/{secret}/register_worker"):
        assert "ssss" not in without_secrets(text)
    assert "hunter" not in without_secrets("Bearer hunterhunterhunterhunter")
    assert without_secrets("an ordinary line") == "an ordinary line"
