"""The ASGI application: one address for each page, and pages for what goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from robustbench_local.errors import RobustbenchError
from robustbench_local.view.image_pages import ImagePages
from robustbench_local.view.request_guard import RequestGuard
from robustbench_local.view.run_pages import RunPages
from robustbench_local.view.view_pages import read_page_file, read_style, render_view
from robustbench_local.view.viewer import Viewer

_NOT_FOUND = "There is no such page, run or image here. The run may have been moved or renamed."


def create_view(root: Path, report_error: Callable[[Exception], None] | None = None) -> RequestGuard:
    """Create the ASGI application.

    Args:
        root: The folder of runs; it is only read.
        report_error: Receives an error that is no error of this package; by default it is lost.
    """
    viewer = Viewer(root)
    run_pages, image_pages = RunPages(viewer), ImagePages(viewer)

    def answer_failure(request: Request, error: Exception) -> Response:
        if report_error is not None:
            report_error(error)
        return answer_problem(
            request, "Internal error: the terminal that runs rbl view has a line about it.", 500
        )

    application = Starlette(
        routes=[
            Route("/", run_pages.show_list),
            Route("/trends", run_pages.show_trends),
            Route("/compare", run_pages.show_comparison),
            Route("/runs/{run_id}", run_pages.show_run),
            Route("/runs/{run_id}/report", run_pages.show_report),
            Route("/runs/{run_id}/images", image_pages.show_images),
            Route("/runs/{run_id}/image", image_pages.show_image),
            Route("/runs/{run_id}/pictures/{cell_id}/{position:int}/{kind}.png", image_pages.send_picture),
            Route("/view.css", lambda _request: Response(read_style(), media_type="text/css")),
            Route(
                "/keys.js", lambda _request: Response(read_page_file("keys.js"), media_type="text/javascript")
            ),
            Route(
                "/icon.svg", lambda _request: Response(read_page_file("icon.svg"), media_type="image/svg+xml")
            ),
        ],
        exception_handlers={
            HTTPException: _answer_http_error,
            RobustbenchError: _answer_own_error,
            Exception: answer_failure,
        },
    )
    application.router.redirect_slashes = False
    application.state.viewer = viewer
    return RequestGuard(application)


def answer_problem(_request: Request, text: str, status: int) -> Response:
    """Answer with a page that says what is wrong."""
    return HTMLResponse(render_view("view_problem.html.j2", text=text, status=status), status)


def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - that is what it is registered for
    text = _NOT_FOUND if error.status_code == 404 else str(error.detail)
    return answer_problem(request, text, error.status_code)


def _answer_own_error(request: Request, error: Exception) -> Response:
    """Answer with an error of this package, such as a damaged run."""
    return answer_problem(request, str(error), 422)
