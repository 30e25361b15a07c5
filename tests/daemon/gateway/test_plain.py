"""What is plain enough to be read at a glance."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.gateway.plain import read_head

PATHS = ("/v1/chat/completions",)
LINE = b"POST /v1/chat/completions HTTP/1.1\r\n"
MOST = 1000


def head(*fields: bytes, line: bytes = LINE) -> bytes:
    return line + b"".join(field + b"\r\n" for field in (b"Host: localhost", *fields)) + b"\r\n"


def test_a_plain_head_is_read() -> None:
    data = head(b"Content-Length:  12 ", b"X-A: b: c", b"Connection: Keep-Alive")
    found = read_head(data + b"{}", PATHS, most_body=MOST)
    assert found is not None
    assert (found.path, found.size, found.body_size, found.keep_alive) == (PATHS[0], len(data), 12, True)
    assert found.headers == {
        "host": "localhost",
        "content-length": "12",
        "x-a": "b: c",
        "connection": "Keep-Alive",
    }
    closing = read_head(head(b"Content-Length: 1000", b"connection: close"), PATHS, most_body=MOST)
    assert closing is not None
    assert not closing.keep_alive


LENGTH = b"Content-Length: 12"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        LINE,
        head(LENGTH)[:-1],
        head(LENGTH, line=b"GET /v1/chat/completions HTTP/1.1\r\n"),
        head(LENGTH, line=b"POST /v1/chat/completions HTTP/1.0\r\n"),
        head(LENGTH, line=b"POST /v1/chat/completions?a=b HTTP/1.1\r\n"),
        head(LENGTH, line=b"POST /v1/models HTTP/1.1\r\n"),
        head(LENGTH, line=b"POST  /v1/chat/completions HTTP/1.1\r\n"),
        head(LENGTH, line=b"POST /v1/chat/completions  HTTP/1.1\r\n"),
        head(LENGTH, line=b"POST /v1/chat/completions HTTP/1.1\n"),
        head(),
        head(b"Content-Length: 0"),
        head(b"Content-Length: -1"),
        head(b"Content-Length: +1"),
        head(b"Content-Length: 1, 1"),
        head(b"Content-Length: 0x1"),
        head(b"Content-Length: 1001"),
        head(b"Content-Length: 00000000012"),
        head(LENGTH, LENGTH),
        head(LENGTH, b"Host: other"),
        head(LENGTH, b"Transfer-Encoding: chunked"),
        head(LENGTH, b"transfer-encoding: identity"),
        head(LENGTH, b"Expect: 100-continue"),
        head(LENGTH, b"Connection: upgrade"),
        head(LENGTH, b"Upgrade: websocket"),
        head(b"Content-Length : 12"),
        head(b" Content-Length: 12"),
        head(LENGTH, b"X-A: b\r\n folded"),
        head(LENGTH, b"X-A: b\nX-B: c"),
        head(LENGTH, b"X-A: b\rX-B: c"),
        head(LENGTH, b"X-A: \x00"),
        head(LENGTH, "X-A: é".encode()),
        head(LENGTH, b"no colon"),
        head(LENGTH, b": no name"),
        head(LENGTH, b"X-A: " + b"x" * 9000),
    ],
)
def test_what_is_not_plain_is_left_alone(data: bytes) -> None:
    assert read_head(data, PATHS, most_body=MOST) is None


class Seen:
    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.body = b""
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


PIECE = st.sampled_from(
    [
        *(b"Content-Length", b"Transfer-Encoding", b"Host", b"X", b": ", b":", b" ", b"\t", b"\r\n", b"\n", b"\r"),
        *(b"3", b"12", b"chunked", b"a", b"\x00", b"\xff", b"\r\n\r\n", b","),
    ]
)


@given(st.lists(PIECE, max_size=30).map(b"".join), st.booleans())
def test_where_it_is_read_another_parser_reads_the_same(middle: bytes, with_length: bool) -> None:
    fields = (b"Content-Length: 3\r\n" if with_length else b"") + middle
    data = LINE + fields + b"\r\n\r\n"
    found = read_head(data, PATHS, most_body=MOST)
    if found is None:
        return
    seen = Seen()
    parser = httptools.HttpRequestParser(seen)
    parser.feed_data(data[: found.size] + b"x" * found.body_size)
    assert seen.complete
    assert seen.body == b"x" * found.body_size
    assert {name: value.strip(" \t") for name, value in seen.headers.items()} == found.headers
