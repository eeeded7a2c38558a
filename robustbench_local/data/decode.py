"""Image decoding: only safe formats, and nothing is dropped or clipped silently."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, UnidentifiedImageError

from robustbench_local.classifier.foreign_errors import is_out_of_memory
from robustbench_local.config.user_files import read_user_file
from robustbench_local.errors import DataError, RefusedError

#: Supported formats, whatever the file's name: other decoders have a larger attack surface.
IMAGE_FORMATS = ("PNG", "JPEG", "PPM", "BMP")
#: Larger images are refused as decompression bombs (Pillow's default, whatever the process has set).
MAX_PIXELS = 89_478_485
#: Largest file of an image.
MAX_IMAGE_BYTES = 1 << 30

Pixels = NDArray[Any]  # (H, W, C): uint8, or float32 in [0, 1]

_EXIF_ORIENTATION_TAG = 0x0112
_ORIENTATION_TRANSPOSES = {  # value of the tag -> its inverse
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DECODING_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, OverflowError,
    struct.error, zlib.error,
)  # fmt: skip


class BadImageError(Exception):
    """One image cannot be read; the message is the reason. Callers inside the package handle it."""


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image.

    Args:
        pixels: (H, W, C) with C = 1 or 3; uint8, or float32 in [0, 1] where the file has 16 bits.
        notes: Conversions applied to the file's pixels, worded so that files can be counted.
    """

    pixels: Pixels
    notes: tuple[str, ...] = ()


def read_image(path: Path, *, where: str, alpha: str | None = None) -> DecodedImage:
    """Decode an image file.

    Args:
        path: The file.
        where: Its name in messages.
        alpha: Background for transparent images, a color that Pillow knows: ``white``, ``#808080``.

    Returns:
        The image, upright (EXIF orientation applied).

    Raises:
        BadImageError: If the file is empty, truncated, corrupt or in another format (F38 to F41).
        DataError: If it cannot be opened at all (F54), or has transparent pixels without ``alpha`` (F43).
        RefusedError: If it is a decompression bomb (F51).
    """
    remedy = "make the file readable, or remove it"
    content = read_user_file(path, where=where, error=DataError, limit=MAX_IMAGE_BYTES, remedy=remedy)
    return decode_image(content, where=where, alpha=alpha)


def decode_image(
    content: bytes, *, where: str, alpha: str | None = None, max_pixels: int = MAX_PIXELS
) -> DecodedImage:
    """Decode the bytes of an image file.

    Args:
        content: The whole file.
        where: Its name in messages.
        alpha: Background for transparent images.
        max_pixels: Largest width times height, checked before any pixel is decoded.

    Returns:
        The image, upright (EXIF orientation applied).

    Raises:
        BadImageError: If the file is empty, truncated, corrupt or in another format (F38 to F41).
        DataError: If it has transparent pixels without ``alpha`` (F43).
        RefusedError: If it has more pixels (F51).
    """
    if not content:
        raise BadImageError("empty file")
    with translate_decoding_errors(where):
        if content.startswith(b"\x89PNG"):
            # Pillow's decoder accepts a truncated PNG (F39); verify() does not.
            _open_image(content).verify()
        image = _open_image(content)
        _check_bomb(image, where, max_pixels)
        image.load()
        upright, notes = _rotate_upright(image)
        return convert_image(upright, where=where, alpha=alpha, notes=(*_list_losses(content, image), *notes))


@contextmanager
def translate_decoding_errors(where: str) -> Iterator[None]:
    """Translate Pillow's errors and warnings into this package's errors.

    Raises:
        BadImageError: If the image cannot be decoded.
        RefusedError: If it is a decompression bomb (F51).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            yield
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise _build_bomb_error(where) from None
        except UnidentifiedImageError:
            raise BadImageError(
                f"not a {', '.join(IMAGE_FORMATS[:-1])} or {IMAGE_FORMATS[-1]} image"
            ) from None
        except _DECODING_ERRORS as error:
            if is_out_of_memory(error):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise BadImageError(f"cannot be decoded: {reason}") from None


def convert_image(
    image: Image.Image, *, where: str, alpha: str | None = None, notes: tuple[str, ...] = ()
) -> DecodedImage:
    """Convert an opened image to gray or RGB, without implicit loss.

    Args:
        image: The image, any mode.
        where: Its name in messages.
        alpha: Background for transparent images.
        notes: Conversions applied before.

    Raises:
        BadImageError: If its pixels are floating point.
        DataError: If a pixel is transparent and there is no background for it (F43).
    """
    if image.mode.startswith("I"):
        return _convert_16_bit(image, notes)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        if _is_opaque(image):
            return DecodedImage(
                _convert_to_array(_remove_alpha(image)), (*notes, "opaque alpha channel, left out")
            )
        flat = _flatten_alpha(image, alpha, where)
        return DecodedImage(_convert_to_array(flat), (*notes, f"transparent, put on a {alpha} background"))
    if image.mode in ("L", "RGB"):
        return DecodedImage(_convert_to_array(image), notes)
    if image.mode == "1":
        return DecodedImage(
            _convert_to_array(image.convert("L")), (*notes, "black and white, converted to gray")
        )
    if image.mode in ("P", "CMYK", "YCbCr", "LAB", "HSV"):
        kind = {"P": "palette"}.get(image.mode, image.mode)
        return DecodedImage(_convert_to_array(image.convert("RGB")), (*notes, f"{kind}, converted to RGB"))
    raise BadImageError(f"unsupported pixels (mode {image.mode})")


def is_colour(name: str) -> bool:
    """Return True if Pillow knows this color."""
    try:
        ImageColor.getrgb(name)
    except ValueError:
        return False
    return True


def _open_image(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content), formats=IMAGE_FORMATS)


def _check_bomb(image: Image.Image, where: str, max_pixels: int = MAX_PIXELS) -> None:
    if image.width * image.height > max_pixels:
        raise _build_bomb_error(where, max_pixels)


def _build_bomb_error(where: str, max_pixels: int = MAX_PIXELS) -> RefusedError:
    what = f"the image unpacks to more than {max_pixels:,} pixels, as a decompression bomb does"
    return RefusedError(what, where=where, remedy="make it smaller, or remove it")


def _list_losses(content: bytes, image: Image.Image) -> tuple[str, ...]:
    """List what Pillow silently drops from a file."""
    notes = []
    if image.format == "PNG" and content[24] == 16 and not image.mode.startswith("I"):
        notes.append("16-bit color, read at 8 bits")
    if getattr(image, "n_frames", 1) > 1:
        notes.append("several images in one file, the first used")
    return tuple(notes)


def _rotate_upright(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """Rotate the image according to its EXIF orientation (F46)."""
    transpose = _ORIENTATION_TRANSPOSES.get(image.getexif().get(_EXIF_ORIENTATION_TAG, 1))
    if transpose is None:
        return image, ()
    return image.transpose(transpose), ("rotated upright according to its EXIF data",)


def _flatten_alpha(image: Image.Image, alpha: str | None, where: str) -> Image.Image:
    if alpha is None:
        what = "has an alpha channel with transparent pixels, and dropping it would change the image"
        raise DataError(what, where=where, remedy="name the background to put it on, such as alpha: white")
    background = Image.new("RGBA", image.size, alpha)
    return _remove_alpha(Image.alpha_composite(background, image.convert("RGBA")), image.mode)


def _is_opaque(image: Image.Image) -> bool:
    """Return True if every pixel is opaque, so that the alpha channel carries no information."""
    low, _ = image.convert("RGBA").getchannel("A").getextrema()
    return low == 255


def _remove_alpha(image: Image.Image, mode: str | None = None) -> Image.Image:
    """Convert to gray if the file is gray, else to RGB."""
    is_gray = (mode or image.mode) in ("1", "L", "LA", "La")
    return image.convert("RGBA").convert("L" if is_gray else "RGB")


def _convert_16_bit(image: Image.Image, notes: tuple[str, ...]) -> DecodedImage:
    """Scale 16-bit gray; Pillow's conversion would turn all values above 255 to white (F44)."""
    if "transparency" in image.info and (np.asarray(image) == image.info["transparency"]).any():
        raise BadImageError("16-bit gray with a transparent color is not supported")
    pixels = np.asarray(image).astype(np.float32)[..., None] / np.float32(65535)
    return DecodedImage(np.clip(pixels, 0, 1), (*notes, "16-bit gray, divided by 65535"))


def _convert_to_array(image: Image.Image) -> Pixels:
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[..., None] if pixels.ndim == 2 else pixels
