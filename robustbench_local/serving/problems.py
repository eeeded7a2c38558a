"""Errors of the API: one line each, as RFC 9457 problem details."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse

from robustbench_local.errors import (
    DataError,
    RefusedError,
    RobustbenchError,
    UnreachableError,
    UsageError,
    escape_unprintable,
)

PROBLEM_MEDIA_TYPE = "application/problem+json"
MAX_DETAIL_CHARACTERS = 400
"""Longest detail of a problem: a request cannot choose how long its error is."""
RETRY_SECONDS = 1
"""Seconds after which a client that met a full queue may try again."""


class ProblemError(Exception):
    """A request that is refused or fails.

    Args:
        status: HTTP status, 400 to 599.
        detail: One line: what is wrong, and what to do.
        headers: Further headers of the response.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        self.status, self.headers = status, dict(headers or {})
        self.detail = shorten_line(detail)
        super().__init__(self.detail)

    def to_json(self) -> dict[str, Any]:
        """Return the problem details."""
        title = HTTPStatus(self.status).phrase
        return {"type": "about:blank", "title": title, "status": self.status, "detail": self.detail}

    def build_response(self) -> JSONResponse:
        """Return the response."""
        return JSONResponse(self.to_json(), self.status, headers=self.headers, media_type=PROBLEM_MEDIA_TYPE)


def build_overload_problem(what: str) -> ProblemError:
    """Build the problem of a full queue.

    Args:
        what: What is full.
    """
    return ProblemError(503, f"{what}; try again later", {"Retry-After": str(RETRY_SECONDS)})


def convert_error(error: RobustbenchError) -> ProblemError:
    """Convert an error of this package: the request is wrong, or the model is."""
    if isinstance(error, UsageError | DataError | RefusedError):
        return ProblemError(422, str(error))
    if isinstance(error, UnreachableError):
        return build_overload_problem(str(error))
    return ProblemError(500, str(error))


def shorten_line(text: str) -> str:
    """Return a text as one line without control characters, at most `MAX_DETAIL_CHARACTERS` long."""
    line = escape_unprintable(" ".join(text.split()))
    return line if len(line) <= MAX_DETAIL_CHARACTERS else f"{line[: MAX_DETAIL_CHARACTERS - 3]}..."
