"""Reading of a request: its images, within limits of size, time and memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from robustbench_local.counted_nouns import format_count
from robustbench_local.serving.image_upload import Upload
from robustbench_local.serving.problems import ProblemError, build_overload_problem
from robustbench_local.serving.serving_options import MEBIBYTE, ServingOptions

IMAGE_MEDIA_TYPES = ("image/png", "image/jpeg", "image/bmp", "image/x-portable-pixmap")
"""Media types of a body that is one image; what it is, its first bytes decide."""
RAW_MEDIA_TYPES = frozenset({*IMAGE_MEDIA_TYPES, "application/octet-stream"})
IMAGE_FIELD = "image"
"""Name of the form field of an image; it may be repeated."""
BODY_BUDGET_BYTES = 512 * MEBIBYTE
"""Memory for the bodies of all requests; a request that finds none gets 503."""
_MAX_FIELDS = 32
_MAX_FIELD_BYTES = 16_384


class _MemoryParser(MultiPartParser):
    """Keeps files in memory: no image reaches a disk unasked."""

    spool_max_size = 1 << 40


@dataclass(frozen=True)
class ImageRequest:
    """The content of a request."""

    uploads: tuple[Upload, ...]
    """The images, at least one."""
    body_bytes: int
    """Size of the body."""


class ByteBudget:
    """Memory that the bodies of requests share; what is announced and does not come takes none.

    Args:
        size: Bytes in all.
    """

    def __init__(self, size: int) -> None:
        self._free = size

    @contextmanager
    def open_account(self) -> Iterator[Callable[[int], None]]:
        """Open an account of a request, whose bytes are free again when the context ends.

        Yields:
            A function that takes a number of bytes; it raises a ProblemError, 503, if there are not so many.
        """
        taken = 0

        def take_bytes(count: int) -> None:
            nonlocal taken
            if count > self._free:
                raise build_overload_problem("too many requests are being read")
            self._free -= count
            taken += count

        try:
            yield take_bytes
        finally:
            self._free += taken


async def read_images(
    request: Request, options: ServingOptions, take_bytes: Callable[[int], None], *, max_images: int
) -> ImageRequest:
    """Read the images of a request, from a form or a body that is one image.

    Args:
        request: The request.
        options: The limits.
        take_bytes: Takes the memory for the body; see `ByteBudget`.
        max_images: Largest number of images here.

    Raises:
        ProblemError: 400, 408, 413, 415, 422 or 503.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_form = media_type == "multipart/form-data"
    if not is_form and media_type not in RAW_MEDIA_TYPES:
        supported = ", ".join(["multipart/form-data", *IMAGE_MEDIA_TYPES])
        named = f"the content type {media_type!r} is" if media_type else "a body without a content type is"
        raise ProblemError(415, f"{named} not supported; send {supported}", {"Accept": supported})
    _check_content_length(request, options.max_body_bytes)
    body = await _read_body(request, options, take_bytes)
    if is_form:
        return await _parse_form(request, body, max_images)
    if not body:
        raise ProblemError(400, "the body is empty; send an image")
    return ImageRequest((Upload("image 1", body),), len(body))


def _check_content_length(request: Request, limit: int) -> None:
    """Refuse a body whose announced size is no number or too large, before it is read."""
    text = request.headers.get("content-length")
    if text is None:
        return
    if not (text.isascii() and text.isdigit()):
        raise ProblemError(400, "Content-Length is not a number")
    if int(text) > limit:
        raise _build_size_problem(limit)


def _build_size_problem(limit: int) -> ProblemError:
    what = f"the body is larger than {limit / MEBIBYTE:.3g} MiB"
    return ProblemError(413, f"{what}; send a smaller image, or fewer", {"Connection": "close"})


async def _read_body(request: Request, options: ServingOptions, take_bytes: Callable[[int], None]) -> bytes:
    chunks, size = [], 0
    try:
        async with asyncio.timeout(options.body_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > options.max_body_bytes:
                    raise _build_size_problem(options.max_body_bytes)
                take_bytes(len(chunk))
                chunks.append(chunk)
    except TimeoutError:
        seconds = f"{options.body_seconds:g} s"
        raise ProblemError(
            408, f"the body did not arrive within {seconds}; send it faster", {"Connection": "close"}
        ) from None
    except ClientDisconnect:
        raise ProblemError(400, "the connection was closed before the body was complete") from None
    return b"".join(chunks)


async def _parse_form(request: Request, body: bytes, max_images: int) -> ImageRequest:
    async def stream_body() -> AsyncGenerator[bytes, None]:
        yield body

    parser = _MemoryParser(
        request.headers,
        stream_body(),
        max_files=max_images + 1,  # one too many is counted here, with a better message
        max_fields=_MAX_FIELDS,
        max_part_size=_MAX_FIELD_BYTES,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise ProblemError(400, f"the form cannot be read: {error.message}") from None
    except (ValueError, KeyError, LookupError, UnicodeError) as error:
        raise ProblemError(400, f"the form cannot be read: {error}") from None
    try:
        return await _collect_parts(form, len(body), max_images)
    finally:
        await form.close()


async def _collect_parts(form: FormData, body_bytes: int, max_images: int) -> ImageRequest:
    """Collect the files of a form."""
    uploads: list[Upload] = []
    for name, value in form.multi_items():
        if name != IMAGE_FIELD:
            raise ProblemError(422, f"the form has a part {name!r}; name image files {IMAGE_FIELD!r}")
        if not isinstance(value, UploadFile):
            raise ProblemError(422, f"the part {IMAGE_FIELD!r} is a text; give it a file name")
        uploads.append(Upload(f"image {len(uploads) + 1}", await value.read()))
    if not uploads:
        raise ProblemError(422, f"the form has no file {IMAGE_FIELD!r}; add one")
    if len(uploads) > max_images:
        raise ProblemError(422, f"the request has more than {format_count(max_images, 'image')}; send fewer")
    return ImageRequest(tuple(uploads), body_bytes)
