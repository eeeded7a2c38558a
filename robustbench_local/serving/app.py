"""The ASGI application: routes, the guard before them, and errors as problem details."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from robustbench_local.errors import RobustbenchError
from robustbench_local.serving.access_guard import AccessGuard
from robustbench_local.serving.api_schema import Problem
from robustbench_local.serving.application import Application
from robustbench_local.serving.problems import ProblemError, convert_error
from robustbench_local.serving.rate_limit import RateLimiter
from robustbench_local.serving.routes import API_PATHS, PAGE_FILES, build_router

_SUMMARY = (
    "Classifies images, shows what the model sees, attacks them and certifies answers. Errors are one line "
    "each, as problem details (RFC 9457)."
)


def create_app(application: Application, *, is_loopback: bool = True) -> FastAPI:
    """Create the ASGI application.

    Args:
        application: The work behind it; it is started and stopped with the server.
        is_loopback: Whether the server listens on a loopback address only.
    """

    @asynccontextmanager
    async def run_application(_app: FastAPI) -> AsyncIterator[None]:
        application.start()
        try:
            yield
        finally:
            await application.stop()

    app = FastAPI(
        title=f"rbl serve {application.model.name}",
        version=str(application.describe_state()["version"]),
        summary=_SUMMARY,
        docs_url=None,
        redoc_url=None,
        lifespan=run_application,
        redirect_slashes=False,
    )
    app.state.application = application
    app.include_router(build_router(application))
    app.add_exception_handler(ProblemError, _answer_problem)
    app.add_exception_handler(RobustbenchError, _answer_own_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid_request)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_middleware(
        AccessGuard,
        allowed_hosts=application.options.allowed_hosts,
        is_loopback=is_loopback,
        limiter=RateLimiter(application.options.rate, application.options.burst),
        metrics=application.metrics,
        paths=[*API_PATHS, *PAGE_FILES],
    )
    _describe_problems(app)
    return app


async def _answer_problem(_request: Request, problem: Exception) -> Response:
    assert isinstance(problem, ProblemError)  # noqa: S101 - that is what it is registered for
    return problem.build_response()


async def _answer_own_error(_request: Request, error: Exception) -> Response:
    """Answer with an error of this package, such as an attack that the model does not support."""
    assert isinstance(error, RobustbenchError)  # noqa: S101 - as above
    return convert_error(error).build_response()


async def _answer_invalid_request(_request: Request, error: Exception) -> Response:
    """Answer a request whose query is invalid with the first error."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - as above
    first = error.errors()[0]
    where = str(first["loc"][-1]) if first["loc"] else "the request"
    return ProblemError(422, f"{where}: {first['msg']}, got {first.get('input')!r:.60}").build_response()


async def _answer_http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - as above
    details = {
        404: "there is nothing at this path; see /docs",
        405: "this path does not support that method; see /docs",
    }
    detail = details.get(error.status_code, str(error.detail))
    return ProblemError(error.status_code, detail, error.headers).build_response()


def _describe_problems(app: FastAPI) -> None:
    """Add the schema of problem details, and leave FastAPI's own form of validation errors out."""
    build = app.openapi

    def build_document() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = build()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            schemas["Problem"] = Problem.model_json_schema()
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = build_document  # FastAPI's documented way to change it
