"""Asking a service: one place, patience with limits, and no credentials in anything that is written down."""

from __future__ import annotations

import base64
import json
import os
import time
from http.client import HTTPException, HTTPMessage
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from robustbench_local.classifier.foreign_errors import extract_first_line
from robustbench_local.classifier.pass_counter import record_finished_pass
from robustbench_local.errors import ConfigError, ModelError, ModelTimeoutError, UnreachableError
from robustbench_local.models.endpoint_options import EndpointOptions, remove_credentials
from robustbench_local.models.http_deadline import Deadline

_FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.5, 30.0
"""Seconds before the second try, doubled each time up to the longest."""
_MAX_SLEEP_SECONDS = 10.0
"""Seconds of a wait until the next sign that it is one."""
_MAX_ANSWER_BYTES = 64 << 20
_RETRY_STATUS_CODES = {408, 425, 429}
"""Answers besides 5xx that a later try may turn into another."""
_IMAGE_ERROR_STATUS_CODES = {400, 413, 415, 422}
"""Answers that blame what was sent, not the service."""


class EndpointClient:
    """Posts to one URL; redirects are not followed.

    Args:
        url: ``http://...`` or ``https://...``; a user and password in it become basic authentication.
        options: Patience, rate and token.

    Raises:
        ConfigError: If the URL has no host, or the token's variable is not set.
    """

    def __init__(self, url: str, options: EndpointOptions) -> None:
        self.display_url = remove_credentials(url)
        self.url, user, password = _split_url(url)
        self._options = options
        self._headers = {"Accept": "application/json", "User-Agent": "robustbench-local"}
        self._next_request_time, self._owner_pid = 0.0, os.getpid()
        if user is not None:
            pair = base64.b64encode(f"{user}:{password}".encode()).decode()
            self._headers["Authorization"] = f"Basic {pair}"
        if options.token is not None:
            secret = os.environ.get(options.token, "").strip()
            if not secret:
                raise ConfigError(
                    f"the environment variable {options.token} is not set",
                    where=self.display_url,
                    remedy="put the service's token there",
                )
            self._headers["Authorization"] = f"Bearer {secret}"

    def post_request(self, body: bytes, content_type: str) -> Any:
        """Send a body and read the JSON that comes back.

        Raises:
            UnreachableError: If there is no answer after all tries, or one that refuses every request.
            ModelError: If the service refuses these images, or its answer is not JSON.
        """
        pause, problem, overdue = 0.0, "", False
        for attempt in range(self._options.retries + 1):
            self._wait_before_try(pause)
            try:
                return self._parse_json(self._send_request(body, content_type))
            except HTTPError as error:
                error.close()
                self._raise_if_final(error)
                overdue = False
                problem, asked = f"it answers {error.code}", error.headers.get("Retry-After", "")
                pause = float(asked) if asked.isdigit() else _FIRST_PAUSE_SECONDS * 2**attempt
            except (URLError, OSError, HTTPException) as error:
                reason = getattr(error, "reason", None)
                overdue = isinstance(error, TimeoutError) or isinstance(reason, TimeoutError)
                problem = extract_first_line(reason if isinstance(reason, Exception) else error)
                pause = _FIRST_PAUSE_SECONDS * 2**attempt
        kind = ModelTimeoutError if overdue else UnreachableError
        raise kind(
            f"the service does not answer, in {self._options.retries + 1} tries: {problem}",
            where=self.display_url,
            remedy="check it, then run the same command again",
        )

    def _send_request(self, body: bytes, content_type: str) -> bytes:
        headers = {**self._headers, "Content-Type": content_type}
        request = Request(self.url, data=body, headers=headers, method="POST")  # noqa: S310 - http(s) only
        with (
            Deadline(self._options.timeout) as deadline,
            build_opener(_NoRedirectHandler, *deadline.build_handlers()).open(
                request, timeout=self._options.timeout
            ) as response,
        ):
            parts, size = [], 0
            while part := response.read1(1 << 16):
                parts.append(part)
                size += len(part)
                if size > _MAX_ANSWER_BYTES:
                    raise ModelError(
                        f"the answer is larger than {_MAX_ANSWER_BYTES >> 20} MiB", where=self.display_url
                    )
        record_finished_pass()
        return b"".join(parts)

    def _wait_before_try(self, pause: float) -> None:
        """Sleep out a pause after a failure, and what the rate asks for."""
        now, between = time.monotonic(), 1 / self._options.rate if self._options.rate else 0.0
        if self._owner_pid != os.getpid():  # a copy of the process that may have asked just now
            self._next_request_time, self._owner_pid = now + between, os.getpid()
        start = max(now + min(pause, _MAX_PAUSE_SECONDS), self._next_request_time)
        while (left := start - time.monotonic()) > 0:
            time.sleep(min(left, _MAX_SLEEP_SECONDS))
            record_finished_pass()  # it is our own wait, not the service's
        self._next_request_time = start + between

    def _parse_json(self, answer: bytes) -> Any:
        try:
            return json.loads(answer)
        except (ValueError, RecursionError):
            shown = answer[:60].decode("utf-8", "replace")
            raise ModelError(
                f"the service answers {shown!r}, which is not JSON", where=self.display_url
            ) from None

    def _raise_if_final(self, error: HTTPError) -> None:
        """Raise what a status means, unless a later try may end better."""
        if error.code in _RETRY_STATUS_CODES or error.code >= 500:
            return
        if 300 <= error.code < 400:
            message, remedy = f"it answers {error.code}, a redirect", "name the place it leads to"
        elif error.code in (401, 403):
            message, remedy = f"it answers {error.code}, not allowed", "set endpoint: {token: VARIABLE}"
        else:
            message, remedy = f"it answers {error.code} {error.reason}", "check the URL and the format"
        kind = ModelError if error.code in _IMAGE_ERROR_STATUS_CODES else UnreachableError
        raise kind(message, where=self.display_url, remedy=remedy) from None


class _NoRedirectHandler(HTTPRedirectHandler):
    """The images go to the place that the user named, and to no other."""

    def redirect_request(
        self,
        req: Request,  # noqa: ARG002 - the signature is urllib's
        fp: IO[bytes],  # noqa: ARG002
        code: int,  # noqa: ARG002
        msg: str,  # noqa: ARG002
        headers: HTTPMessage,  # noqa: ARG002
        newurl: str,  # noqa: ARG002
    ) -> None:
        return None


def _split_url(url: str) -> tuple[str, str | None, str]:
    """The URL to ask, and the user and password that were in it."""
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0 and url.isprintable() and " " not in url
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(
            "this is not a URL with a host", where="source", remedy="write http://HOST:PORT/PATH"
        )
    bare = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path or "/", parts.query, ""))
    user = None if parts.username is None else unquote(parts.username)
    return bare, user, unquote(parts.password or "")
