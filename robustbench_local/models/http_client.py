"""A client of a model's HTTP service: retries with limits, and no credentials in any record."""

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
from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import ConfigError, ModelError, ModelTimeoutError, UnreachableError
from robustbench_local.models.endpoint_options import EndpointOptions, remove_credentials
from robustbench_local.models.http_deadline import Deadline

_FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.5, 30.0
"""Pause before the second try, doubled each time up to the maximum."""
_MAX_SLEEP_SECONDS = 10.0
"""Longest uninterrupted sleep, after which progress is reported."""
_MAX_ANSWER_BYTES = 64 << 20
_RETRY_STATUS_CODES = {408, 425, 429}
"""Status codes besides 5xx after which a retry may succeed."""
_IMAGE_ERROR_STATUS_CODES = {400, 413, 415, 422}
"""Status codes that report an error in the images, not in the service."""


class EndpointClient:
    """A client that posts to one URL; redirects are not followed.

    Args:
        url: ``http://...`` or ``https://...``; a user and password in it become basic authentication.
        options: Time limit, retries, rate and token.

    Raises:
        ConfigError: If the URL has no host, or the token's variable is not set.
    """

    def __init__(self, url: str, options: EndpointOptions) -> None:
        self.display_url = remove_credentials(url)
        self.url, user, password = split_url(url)
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
                    remedy="set it to the service's token",
                )
            self._headers["Authorization"] = f"Bearer {secret}"

    def post_request(self, body: bytes, content_type: str) -> Any:
        """Send a body and parse the JSON answer.

        Raises:
            UnreachableError: If no try gets an answer, or the answer refuses every request.
            ModelError: If the service refuses these images, or its answer is not JSON.
        """
        pause, problem, is_timeout = 0.0, "", False
        for attempt in range(self._options.retries + 1):
            self._wait_before_try(pause)
            try:
                return self._parse_json(self._send_request(body, content_type))
            except HTTPError as error:
                error.close()
                self._raise_if_final(error)
                is_timeout = False
                problem, retry_after = f"it answers {error.code}", error.headers.get("Retry-After", "")
                pause = float(retry_after) if retry_after.isdigit() else _FIRST_PAUSE_SECONDS * 2**attempt
            except (URLError, OSError, HTTPException) as error:
                reason = getattr(error, "reason", None)
                is_timeout = isinstance(error, TimeoutError) or isinstance(reason, TimeoutError)
                problem = extract_first_line(reason if isinstance(reason, Exception) else error)
                pause = _FIRST_PAUSE_SECONDS * 2**attempt
        kind = ModelTimeoutError if is_timeout else UnreachableError
        raise kind(
            f"the service does not answer, in {format_count(self._options.retries + 1, 'try')}: {problem}",
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
        """Wait for a pause after a failure, and for the rate limit."""
        now, interval = time.monotonic(), 1 / self._options.rate if self._options.rate else 0.0
        if self._owner_pid != os.getpid():  # a forked copy; its parent may have sent a request just now
            self._next_request_time, self._owner_pid = now + interval, os.getpid()
        start = max(now + min(pause, _MAX_PAUSE_SECONDS), self._next_request_time)
        while (remaining := start - time.monotonic()) > 0:
            time.sleep(min(remaining, _MAX_SLEEP_SECONDS))
            record_finished_pass()  # this wait is ours, not the service's
        self._next_request_time = start + interval

    def _parse_json(self, answer: bytes) -> Any:
        try:
            return json.loads(answer)
        except (ValueError, RecursionError):
            excerpt = answer[:60].decode("utf-8", "replace")
            raise ModelError(
                f"the service answers {excerpt!r}, which is not JSON", where=self.display_url
            ) from None

    def _raise_if_final(self, error: HTTPError) -> None:
        """Raise the error for a status code, unless a retry may succeed."""
        if error.code in _RETRY_STATUS_CODES or error.code >= 500:
            return
        if 300 <= error.code < 400:
            message, remedy = f"it answers {error.code}, a redirect", "name its target instead"
        elif error.code in (401, 403):
            message, remedy = f"it answers {error.code}, not allowed", "set endpoint: {token: VARIABLE}"
        else:
            message, remedy = f"it answers {error.code} {error.reason}", "check the URL and the format"
        kind = ModelError if error.code in _IMAGE_ERROR_STATUS_CODES else UnreachableError
        raise kind(message, where=self.display_url, remedy=remedy) from None


class _NoRedirectHandler(HTTPRedirectHandler):
    """Refuses redirects: images are sent only to the URL that the user named."""

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


def split_url(url: str) -> tuple[str, str | None, str]:
    """Split a URL into the URL to query and its user and password."""
    try:
        parts = urlsplit(url)
        is_valid = bool(parts.hostname) and parts.port != 0 and url.isprintable() and " " not in url
    except ValueError:
        is_valid = False
    if not is_valid:
        raise ConfigError(
            "this is not a URL with a host", where="source", remedy="write http://HOST:PORT/PATH"
        )
    bare = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path or "/", parts.query, ""))
    user = None if parts.username is None else unquote(parts.username)
    return bare, user, unquote(parts.password or "")
