"""Every error that fcd shows: its exit code for the command line and its body for HTTP.

An error names the cause and the next step. `ApiError` is what crosses HTTP in OpenAI's shape; the other classes are
what the command line turns into one line on stderr and an exit code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_RUNNING = 3
EXIT_NOT_FOUND = 4
EXIT_INTERRUPTED = 130


class FcdError(Exception):
    """Something that went wrong, said in a sentence for a person.

    `hint` is the next step, such as a command to type.
    """

    exit_code: int = EXIT_FAILED

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(FcdError):
    exit_code = EXIT_USAGE


class NotRunning(FcdError):
    """The daemon does not answer at the address where it was looked for."""

    exit_code = EXIT_NOT_RUNNING


class AlreadyRunning(FcdError):
    exit_code = EXIT_NOT_RUNNING


class NotFound(FcdError):
    exit_code = EXIT_NOT_FOUND


class ConfigError(FcdError):
    """A setting that cannot be used; the message names the file, the key and the line where they are known."""

    exit_code = EXIT_USAGE


class UnknownSetting(ConfigError):
    """There is no setting of that name."""

    exit_code = EXIT_NOT_FOUND


class ModelLoadError(FcdError):
    """A model that cannot be loaded, with the reason."""


FASTCHAT_CODES: Mapping[str, int] = {
    "invalid_request": 40001,
    "invalid_api_key": 40102,
    "forbidden": 40103,
    "model_not_found": 40301,
    "out_of_range": 40302,
    "context_length_exceeded": 40303,
    "rate_limited": 42901,
    "overloaded": 42903,
    "internal_error": 50001,
    "out_of_memory": 50002,
    "no_worker": 50005,
    "worker_died": 50006,
    "worker_timeout": 50006,
}
"""FastChat's numeric code for each of our codes, kept beside OpenAI's fields for its clients."""

_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "conflict_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class ApiError(FcdError):
    """An error with an HTTP status and OpenAI's body.

    `code` is a short stable word (`model_not_found`); `param` names the field of the request that is wrong;
    `retry_after` becomes the header of that name, in seconds.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str = "invalid_request",
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after = retry_after

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        return EXIT_NOT_FOUND if self.status == 404 else EXIT_FAILED

    def body(self) -> dict[str, Any]:
        """OpenAI's error object, with FastChat's numeric code beside it."""
        return error_body(self.status, self.message, code=self.code, param=self.param)

    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


def error_body(status: int, message: str, *, code: str, param: str | None = None) -> dict[str, Any]:
    """The one place where an OpenAI error body is made."""
    return {
        "error": {
            "message": message,
            "type": _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error"),
            "param": param,
            "code": code,
            "fastchat_code": FASTCHAT_CODES.get(code, 50001 if status >= 500 else 40001),
        }
    }


def api_error_from_body(status: int, body: Any) -> ApiError:
    """Read an error body that another OpenAI-compatible server sent, whatever its shape."""
    error = body.get("error") if isinstance(body, Mapping) else None
    if not isinstance(error, Mapping):
        message = body.get("message") or body.get("detail") if isinstance(body, Mapping) else body
        return ApiError(status, str(message or f"HTTP status {status}"), code=f"http_{status}")
    return ApiError(
        status,
        str(error.get("message") or f"HTTP status {status}"),
        code=str(error.get("code") or error.get("type") or f"http_{status}"),
        param=error.get("param"),
    )


def invalid(param: str, message: str) -> ApiError:
    """A field of a request whose value cannot be used."""
    return ApiError(400, message, param=param)


def unsupported(param: str) -> ApiError:
    """A field that is understood but not offered: refused, never dropped."""
    return ApiError(400, f"'{param}' is not supported here; leave it out.", code="unsupported_parameter", param=param)


def model_not_found(model: str, near: Sequence[str] = ()) -> ApiError:
    """404 for a model that nobody here knows, with the names that come close."""
    suggestion = f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
    return ApiError(
        404,
        f"The model '{model}' does not exist here.{suggestion} `fcd ls` lists models; `fcd pull REPO` downloads one.",
        code="model_not_found",
        param="model",
    )
