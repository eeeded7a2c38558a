"""The paths of the application: the API, the page and its files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from robustbench_local.serving import api_schema
from robustbench_local.serving.api_schema import describe_problems
from robustbench_local.serving.application import Application, PredictionRequest
from robustbench_local.serving.attack_query import check_query_names, parse_attack_query
from robustbench_local.serving.image_upload import Upload
from robustbench_local.serving.problems import ProblemError
from robustbench_local.serving.reference_page import render_reference_page
from robustbench_local.serving.request_images import read_images

PAGE_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/stress.js": ("stress.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""The page's own files."""
API_PATHS = (
    "/predict",
    "/certify",
    "/attack",
    "/model",
    "/health",
    "/ready",
    "/metrics",
    "/openapi.json",
    "/docs",
)
_PREDICT_NAMES = ("top", "include_input", "compare")
_IMAGE_PROBLEMS = describe_problems(400, 403, 408, 413, 415, 421, 422, 429, 500, 503)
_ANALYSIS_PROBLEMS = _IMAGE_PROBLEMS | describe_problems(404)
_READING_PROBLEMS = describe_problems(421, 429)


def find_application(request: Request) -> Application:
    """Return the application of a request."""
    application: Application = request.app.state.application
    return application


async def predict_images(
    request: Request,
    top: Annotated[int, Query(ge=1, le=1000, description="Number of classes to list.")] = 5,
    include_input: Annotated[
        bool, Query(description="Whether the image as the model sees it is part of the answer.")
    ] = False,
    compare: Annotated[bool, Query(description="Whether the model beside it answers, too.")] = False,
) -> Any:
    """Classify one image or several: classes with probabilities, the most probable first."""
    application = find_application(request)
    check_query_names(request.query_params, _PREDICT_NAMES)
    asked = PredictionRequest(
        top=top, includes_input=include_input, compares=compare, request_id=request.state.request_id
    )
    async with _read_request(request, application.options.max_images) as uploads:
        return JSONResponse(await application.predict_images(uploads, asked))


async def certify_image(request: Request) -> Any:
    """Certify the answer to an image, if the served model has a certificate: what no attack can change."""
    check_query_names(request.query_params, ())
    async with _read_request(request, 1) as uploads:
        return JSONResponse(await find_application(request).certify_image(uploads[0]))


async def attack_image(request: Request) -> Any:
    """Attack an image on each served model, with full access to it; every success has been verified."""
    application = find_application(request)
    parts = {name: request.query_params.getlist(name) for name in request.query_params}
    names, options = application.model.class_names, application.options
    query = parse_attack_query(parts, names, options.max_attack_steps)
    async with _read_request(request, 1) as uploads:
        return JSONResponse(await application.attack_image(uploads[0], query))


@asynccontextmanager
async def _read_request(request: Request, max_images: int) -> AsyncIterator[tuple[Upload, ...]]:
    """Read the images of a request; their memory counts until the context ends."""
    application = find_application(request)
    with application.budget.open_account() as take_bytes:
        images = await read_images(request, application.options, take_bytes, max_images=max_images)
        request.state.log = {"images": len(images.uploads), "body_bytes": images.body_bytes}
        yield images.uploads


async def get_model(request: Request) -> Any:
    """Return the card of the served models: classes, input, figures, certificate; limits and drift."""
    return JSONResponse(find_application(request).describe_state())


async def get_health() -> Any:
    """Return 200 as long as the process answers."""
    return JSONResponse({"status": "ok"})


async def get_readiness(request: Request) -> Any:
    """Return 200 if a further image would be accepted, else 503."""
    if not find_application(request).is_ready():
        raise ProblemError(503, "too many images wait for the model", {"Retry-After": "1"})
    return JSONResponse({"status": "ready"})


async def get_metrics(request: Request) -> Response:
    """Return the metrics in Prometheus' text format."""
    content = find_application(request).metrics.render()
    return Response(content, media_type="text/plain; version=0.0.4; charset=utf-8")


async def get_reference_page(request: Request) -> Response:
    """Return the API's reference as a page of its own, without any outside file."""
    return Response(render_reference_page(request.app.openapi()), media_type="text/html")


async def get_page_file(request: Request) -> Response:
    """Return the page or one of its files."""
    name, media_type = PAGE_FILES[request.url.path]
    content = (resources.files("robustbench_local.serving") / "page" / name).read_bytes()
    return Response(content, headers={"content-type": media_type, "cache-control": "no-cache"})


async def redirect_icon() -> Response:
    """Send browsers that ask for an icon of another form to ours."""
    return RedirectResponse("/icon.svg", 308)


def build_router(application: Application) -> APIRouter:
    """Build the routes.

    Args:
        application: Its options and class names are part of the API's description.
    """
    router = APIRouter()
    options, names = application.options, application.model.class_names
    has_attacks = application.analyst is not None
    add = router.add_api_route
    add(
        "/predict",
        predict_images,
        methods=["POST"],
        response_model=api_schema.PredictResponse,
        responses=_IMAGE_PROBLEMS,
        openapi_extra={"requestBody": api_schema.describe_image_body(options.max_images)},
        tags=["Images"],
    )
    add(
        "/certify",
        certify_image,
        methods=["POST"],
        response_model=api_schema.CertificateResult,
        responses=_ANALYSIS_PROBLEMS,
        openapi_extra={"requestBody": api_schema.describe_image_body()},
        include_in_schema=has_attacks and application.model.certificate is not None,
        tags=["Images"],
    )
    add(
        "/attack",
        attack_image,
        methods=["POST"],
        response_model=api_schema.AttackResults,
        responses=_ANALYSIS_PROBLEMS,
        openapi_extra={
            "requestBody": api_schema.describe_image_body(),
            "parameters": api_schema.describe_attack_parameters(options.max_attack_steps, names),
        },
        include_in_schema=has_attacks,
        tags=["Images"],
    )
    add(
        "/model",
        get_model,
        response_model=api_schema.ModelCards,
        responses=_READING_PROBLEMS,
        tags=["Server"],
    )
    add(
        "/health",
        get_health,
        response_model=api_schema.Status,
        responses=describe_problems(421),
        tags=["Server"],
    )
    add(
        "/ready",
        get_readiness,
        response_model=api_schema.Status,
        responses=describe_problems(421, 503),
        tags=["Server"],
    )
    text = {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Metrics"}
    add(
        "/metrics",
        get_metrics,
        response_class=Response,
        responses={200: text, **describe_problems(421)},
        tags=["Server"],
    )
    add("/docs", get_reference_page, include_in_schema=False)
    add("/favicon.ico", redirect_icon, include_in_schema=False)
    for path in PAGE_FILES:
        add(path, get_page_file, include_in_schema=False)
    return router
