from __future__ import annotations

from typing import Any

import pytest

from fcd.errors import (
    EXIT_FAILED,
    EXIT_NOT_FOUND,
    ApiError,
    api_error_from_body,
    invalid,
    model_not_found,
    unsupported,
)


def test_the_body_is_openais_with_fastchats_number_beside() -> None:
    assert invalid("n", "n is too large").body() == {
        "error": {
            "message": "n is too large",
            "type": "invalid_request_error",
            "param": "n",
            "code": "invalid_request",
            "fastchat_code": 40001,
        }
    }


def test_unsupported_fields_are_named() -> None:
    error = unsupported("audio")
    assert (error.status, error.param) == (400, "audio")
    assert "audio" in error.message


def test_an_unknown_model_names_the_near_ones() -> None:
    error = model_not_found("giude", ["guide"])
    assert (error.status, error.code, error.exit_code) == (404, "model_not_found", EXIT_NOT_FOUND)
    assert "'guide'" in error.message


def test_retry_after_becomes_a_header() -> None:
    assert ApiError(429, "full", retry_after=2).headers() == {"Retry-After": "2"}
    assert ApiError(500, "broken").headers() == {}
    assert ApiError(500, "broken").exit_code == EXIT_FAILED


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "no", "code": "x", "param": "p"}}, "no"),
        ({"object": "error", "message": "fastchat says no", "code": 40301}, "fastchat says no"),
        ({"detail": "Not Found"}, "Not Found"),
        ("plain text", "plain text"),
        (None, "HTTP status 400"),
        ([], "HTTP status 400"),
    ],
)
def test_error_bodies_of_any_server_are_read(body: Any, message: str) -> None:
    error = api_error_from_body(400, body)
    assert error.message == message
    assert error.status == 400


def test_what_is_read_back_is_what_was_sent() -> None:
    sent = ApiError(503, "busy", code="overloaded", param="model")
    read = api_error_from_body(503, sent.body())
    assert (read.status, read.message, read.code, read.param) == (503, "busy", "overloaded", "model")
