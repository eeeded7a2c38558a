"""What stands before every request: names, origins and rates that are allowed, logs, and safe headers.

A page of another site must not use this server through a visitor's browser. Requests therefore have to name
this machine (against DNS rebinding), writing requests must come from the server's own page or from outside a
browser (against cross-site request forgery), and no header lets another site read an answer.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from robustbench_local.classifier.foreign_errors import is_out_of_memory
from robustbench_local.serving.metrics import ServingMetrics
from robustbench_local.serving.problems import ProblemError, build_overload_problem
from robustbench_local.serving.rate_limit import RateLimiter
from robustbench_local.serving.request_log import log_event, logger
from robustbench_local.web.host_names import is_allowed_host

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing but this server's own files: no inline script, no outside request, no frame."""
SAFE_HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cache-control": "no-store",
}
UNLIMITED_PATHS = frozenset({"/health", "/ready", "/metrics"})
"""Probes and monitoring are never refused for their rate."""
_READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class AccessGuard:
    """ASGI middleware: refuses, counts and logs requests, and adds safe headers to every response.

    Args:
        app: The application.
        allowed_hosts: Host names that requests may name.
        is_loopback: Whether the server listens on a loopback address only.
        limiter: The limit on each client's rate.
        metrics: Metrics of requests.
        paths: Paths of the application, for metrics and logs; any other path counts as ``other``.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        allowed_hosts: Iterable[str],
        is_loopback: bool,
        limiter: RateLimiter,
        metrics: ServingMetrics,
        paths: Iterable[str],
    ) -> None:
        self._app, self._limiter, self._metrics = app, limiter, metrics
        self._allowed_hosts, self._is_loopback = frozenset(allowed_hosts), is_loopback
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; see the class."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        request_id = uuid.uuid4().hex[:16]
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_safely(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SAFE_HEADERS.items():
                    headers.setdefault(name, value)
                headers["x-request-id"] = request_id
            await send(message)

        self._metrics.requests_in_progress.inc()
        try:
            self._check_request(scope)
            await self._app(scope, receive, send_safely)
        except ProblemError as problem:
            await problem.build_response()(scope, receive, send_safely)
        except Exception as error:  # noqa: BLE001 - a bug fails its request, and shows no traceback to a client
            if is_out_of_memory(error) and not status:  # such as for the pixels of its images
                await build_overload_problem("memory ran out for the request").build_response()(
                    scope, receive, send_safely
                )
                return
            logger.exception("request failed", extra={"fields": {"request": request_id}})
            if not status:
                await ProblemError(
                    500, f"internal error; see the log for request {request_id}"
                ).build_response()(scope, receive, send_safely)
        finally:
            self._metrics.requests_in_progress.dec()
            self._record_request(scope, status, time.perf_counter() - began, request_id)

    def _check_request(self, scope: Scope) -> None:
        """Refuse a request by its host, its origin or its client's rate.

        Raises:
            ProblemError: 403, 421 or 429.
        """
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not is_allowed_host(
            hosts[0], self._allowed_hosts, is_loopback=self._is_loopback
        ):
            raise ProblemError(421, "this server does not answer for that host; allow it with --allow-host")
        if scope["method"] not in _READING_METHODS:
            self._check_origin(headers, hosts[0])
        if scope["path"] not in UNLIMITED_PATHS:
            client = scope.get("client")
            seconds = self._limiter.take_token(client[0] if client else "")
            if seconds:
                raise ProblemError(
                    429, "too many requests from this client; send fewer", {"Retry-After": str(seconds)}
                )

    @staticmethod
    def _check_origin(headers: Headers, host: str) -> None:
        """Refuse a request that a page of another site sends."""
        origin = headers.get("origin")
        is_foreign = origin is not None and origin.lower() not in {
            f"http://{host.lower()}",
            f"https://{host.lower()}",
        }
        if is_foreign or headers.get("sec-fetch-site") in {"cross-site", "same-site"}:
            raise ProblemError(403, "requests from pages of other sites are refused")

    def _record_request(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        path = scope["path"] if scope["path"] in self._paths else "other"
        self._metrics.request_seconds.labels(path, str(status)).observe(seconds)
        client = scope.get("client")
        fields = {
            "request": request_id,
            "client": client[0] if client else None,
            "method": scope["method"][:16],
            "path": path,
            "status": status,
            "milliseconds": round(1000 * seconds, 1),
        }
        log_event("request", **fields, **scope["state"].get("log", {}))
