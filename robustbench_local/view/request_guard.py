"""What stands before every request: it reads only, names this machine, and comes from no other site.

A page of another site must neither read the runs through a visitor's browser nor frame them. So a request has
to name this machine (against DNS rebinding), and no page of another site may load anything but by a link that
its reader follows.
"""

from __future__ import annotations

from contextlib import suppress

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

from robustbench_local.web.host_names import is_allowed_host

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
"""Nothing but this server's own files: no inline script or style, no outside request, no frame."""
VIEW_HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}
_METHODS = frozenset({"GET", "HEAD"})
_FOREIGN_SITES = frozenset({"cross-site", "same-site"})
MAX_QUERY_BYTES = 8_192
"""Longest query of an address."""


class RequestGuard:
    """ASGI application around another: refuses requests, and adds safe headers to every response.

    Args:
        app: The application. It answers its own errors; what it raises after that ends here.
    """

    def __init__(self, app: Starlette) -> None:
        self._app, self.state = app, app.state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; see the class."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in VIEW_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = refuse_request(scope)
        with suppress(Exception):  # it has been answered and reported
            await (self._app if refusal is None else refusal)(scope, receive, send_safely)


def refuse_request(scope: Scope) -> Response | None:
    """Return the response that refuses a request, or None if it is allowed."""
    headers = Headers(scope=scope)
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not is_allowed_host(hosts[0], (), is_loopback=True):
        return PlainTextResponse("this server answers for this machine only\n", 421)
    if scope["method"] not in _METHODS:
        text = "this server only shows runs: use GET or HEAD\n"
        return PlainTextResponse(text, 405, {"allow": ", ".join(sorted(_METHODS))})
    if _comes_from_elsewhere(headers, hosts[0]):
        return PlainTextResponse("requests from pages of other sites are refused\n", 403)
    if len(scope.get("query_string", b"")) > MAX_QUERY_BYTES:
        return PlainTextResponse("the address is too long\n", 414)
    return None


def _comes_from_elsewhere(headers: Headers, host: str) -> bool:
    """Return whether a page of another site loads this, other than by a link that its reader follows."""
    origin = headers.get("origin")
    if origin is not None and origin.lower() != f"http://{host.lower()}":
        return True
    if headers.get("sec-fetch-site") not in _FOREIGN_SITES:
        return False
    return (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) != ("navigate", "document")
