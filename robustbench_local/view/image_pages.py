"""The pages about the images of a run, and the pictures on them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import get_args

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from robustbench_local.errors import DamagedError, DataError, RefusedError
from robustbench_local.view.image_query import (
    IMAGES_PER_PAGE,
    ImageQuery,
    ShownImage,
    parse_image_query,
    select_cells,
    select_images,
)
from robustbench_local.view.page_numbers import PageNumbers
from robustbench_local.view.pictures import LoadClean, PictureKind, load_pair
from robustbench_local.view.run_catalog import ListedRun
from robustbench_local.view.run_images import OUTCOME_TEXTS, CellImages, ImageDetail, RunImages
from robustbench_local.view.view_pages import render_view
from robustbench_local.view.viewer import OpenRun, Viewer

_LOADING_SECONDS = 2.0
"""How long a page waits for the data of a run; then it says that they are being read."""


@dataclass(frozen=True, kw_only=True)
class ShownPictures:
    """The addresses of an image's pictures; empty where there is none."""

    clean: str
    """The clean image."""
    attacked: str
    """Its adversarial example."""
    difference: str
    """The amplified change."""
    amplification: int
    """Factor of the change; 0 without one."""
    problem: str
    """Why a picture is missing; empty if none is, or if it was not asked for."""


class ImagePages:
    """The pages about images.

    Args:
        viewer: The work behind them.
    """

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer

    def show_images(self, request: Request) -> Response:
        """Show the images of a run that match the filters."""
        run = find_readable_run(self._viewer, request)
        with self._viewer.open_run(run) as opened:
            query = parse_image_query(request.query_params, opened.images)
            if query.reads_data:
                opened.data.start_loading(wait_seconds=_LOADING_SECONDS)
            shown = select_images(opened.images, query)
            pages = PageNumbers.from_count(len(shown), query.page, IMAGES_PER_PAGE)
            part = shown[pages.start : pages.end]
            page = render_view(
                "run_images.html.j2",
                run=run,
                images=opened.images,
                data=opened.data,
                query=query,
                pages=pages,
                shown=[
                    (one, _find_pictures(run, opened, one.deciding.cell, one.image, query)) for one in part
                ],
                cells=select_cells(opened.images, ImageQuery(model=query.model)),
                certificates=[
                    cell
                    for cell in opened.images.cells
                    if str(cell.subject) == query.model and cell.record.measure == "certificate"
                ],
                outcome_texts=OUTCOME_TEXTS,
            )
        return HTMLResponse(page)

    def show_image(self, request: Request) -> Response:
        """Show an image under every attack and certificate of the run."""
        run = find_readable_run(self._viewer, request)
        image = request.query_params.get("id", "")
        with self._viewer.open_run(run) as opened:
            query = parse_image_query(request.query_params, opened.images)
            details = [
                detail
                for cell in opened.images.cells
                if (detail := opened.images.read_detail(image, cell)) is not None
            ]
            if not details:
                raise HTTPException(404)
            if query.reads_data:
                opened.data.start_loading(wait_seconds=_LOADING_SECONDS)
            shown = select_images(opened.images, query)
            place = next((index for index, one in enumerate(shown) if one.image == image), None)
            page = render_view(
                "image_detail.html.j2",
                run=run,
                image=image,
                images=opened.images,
                describe_prediction=partial(_describe_prediction, opened.images),
                data=opened.data,
                query=query,
                place=place,
                count=len(shown),
                page_number=1 if place is None else place // IMAGES_PER_PAGE + 1,
                before=_get_neighbour(shown, place, -1),
                after=_get_neighbour(shown, place, 1),
                details=[
                    (detail, _find_pictures(run, opened, detail.cell, image, query, detail))
                    for detail in _put_first(details, query)
                ],
                outcome_texts=OUTCOME_TEXTS,
            )
        return HTMLResponse(page)

    def send_picture(self, request: Request) -> Response:
        """Send a picture of an image as PNG."""
        run = find_readable_run(self._viewer, request)
        path = request.path_params
        if path["kind"] not in get_args(PictureKind):
            raise HTTPException(404)
        with self._viewer.open_run(run) as opened:
            cell = opened.images.find_cell(path["cell_id"])
            position = path["position"]
            if cell is None or position >= 1 << 63:
                raise HTTPException(404)
            outcomes = opened.images.store.read_outcomes_at(cell.record.key, [position])
            if not outcomes:
                raise HTTPException(404)
            reads_data = request.query_params.get("data", "") == "read"
            if reads_data:
                opened.data.start_loading(wait_seconds=_LOADING_SECONDS)
            try:
                pair = load_pair(
                    opened.images,
                    cell,
                    outcomes[0],
                    _build_loader(opened) if reads_data else None,
                )
                content = pair.encode(path["kind"])
            except (DamagedError, DataError, RefusedError):
                raise HTTPException(404) from None
        return Response(content, media_type="image/png")


def find_run(viewer: Viewer, request: Request) -> ListedRun:
    """Return the run that an address names.

    Raises:
        HTTPException: 404 if there is none.
    """
    run = viewer.catalog.find_run(request.path_params["run_id"])
    if run is None:
        raise HTTPException(404)
    return run


def find_readable_run(viewer: Viewer, request: Request) -> ListedRun:
    """Return the run that an address names, if it can be read.

    Raises:
        HTTPException: 404 if there is none, 422 if it cannot be read.
    """
    run = find_run(viewer, request)
    if run.listing is None:
        raise HTTPException(422, run.problem)
    return run


def _find_pictures(
    run: ListedRun,
    opened: OpenRun,
    cell: CellImages,
    image: str,
    query: ImageQuery,
    detail: ImageDetail | None = None,
) -> ShownPictures:
    """Find which pictures of an image can be shown; what is asked of the data is read for it."""
    if detail is None:
        detail = opened.images.read_detail(image, cell)
    if detail is None:
        return ShownPictures(clean="", attacked="", difference="", amplification=0, problem="")
    address = f"/runs/{run.found.id}/pictures/{cell.id}/{detail.outcome.position}"
    query_text = "?data=read" if query.reads_data else ""
    try:
        loader = _build_loader(opened) if query.reads_data else None
        pair = load_pair(opened.images, cell, detail.record, loader)
    except (DamagedError, DataError, RefusedError) as error:
        is_expected = not query.reads_data and not detail.is_stored and not detail.problem
        problem = "" if is_expected or opened.data.is_loading else error.what
        return ShownPictures(clean="", attacked="", difference="", amplification=0, problem=problem)
    clean = f"{address}/clean.png{query_text}"
    if pair.attacked is None:
        return ShownPictures(clean=clean, attacked="", difference="", amplification=0, problem="")
    return ShownPictures(
        clean=clean,
        attacked=f"{address}/attacked.png",
        difference=f"{address}/difference.png",
        amplification=pair.amplification,
        problem="",
    )


def _build_loader(opened: OpenRun) -> LoadClean:
    return lambda outcome: opened.data.load_image(outcome.image, outcome.original_hash)


def _describe_prediction(images: RunImages, detail: ImageDetail, prediction: int | None) -> str:
    """Describe a prediction by the name of its class; a certificate may make none."""
    if prediction is None and detail.cell.record.measure == "certificate":
        return "no prediction"
    return images.get_class_name(detail.cell.record.model, prediction)


def _put_first(details: list[ImageDetail], query: ImageQuery) -> list[ImageDetail]:
    """Order details so that the chosen cell comes first, then those of the chosen model."""
    return sorted(
        details,
        key=lambda detail: (detail.cell.id != query.cell, str(detail.cell.subject) != query.model),
    )


def _get_neighbour(shown: list[ShownImage], place: int | None, step: int) -> str:
    """Return the id of the image before or after one, or nothing."""
    if place is None or not 0 <= place + step < len(shown):
        return ""
    return shown[place + step].image
