"""Classification of files: supported images, unsupported images, and other files beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

#: Suffixes of images in supported formats.
IMAGE_SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".ppm", ".pgm", ".pbm", ".pnm", ".bmp", ".dib"}
)


def _parse_suffixes(text: str) -> frozenset[str]:
    return frozenset(f".{word}" for word in text.split())


#: Suffixes of images in unsupported formats.
UNREAD_SUFFIXES = _parse_suffixes(
    "tif tiff gif webp avif avifs heic heif hif svg svgz jp2 j2k jpf jpx jpm j2c jxl jxr ico icns cur tga "
    "dds psd psb xcf exr hdr dng cr2 cr3 nef arw orf rw2 raf srw raw pcx pam pfm qoi fits dcm dicom nii "
    "mng eps ai wmf emf sgi rgb ras xbm xpm wdp flif bpg ktx ktx2"
)
#: Suffixes of files that accompany images and hold no image data.
_NON_DATA_SUFFIXES = _parse_suffixes(
    "txt md rst csv tsv json jsonl xml yaml yml toml ini cfg db html htm pdf log lnk url py ipynb sh bat doc "
    "docx xls xlsx bib tex license sha256 md5 lock"
)
_MAGIC_BYTES: Mapping[bytes, str] = {
    b"\x89PNG\r\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"II+\x00": "TIFF",
    b"BM": "BMP",
    b"8BPS": "PSD",
    b"\x00\x00\x00\x0cjP": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\xff\x0a": "JPEG XL",
    b"\x00\x00\x00\x0cJXL": "JPEG XL",
    b"v/1\x01": "OpenEXR",
    b"qoif": "QOI",
}
_FTYP_BRANDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif", b"avis")


def is_image_file(path: Path) -> bool:
    """Return True if a visible file is an image by its name or first bytes, supported or not."""
    return not path.name.startswith(".") and (
        path.suffix.lower() in IMAGE_SUFFIXES or find_unread_format(path) is not None
    )


def find_unread_format(path: Path) -> str | None:
    """Return the format of an image in an unsupported format; None for every other file.

    A file without a usual suffix is classified by its first bytes, so that an image with a missing suffix is
    still reported.
    """
    suffix = path.suffix.lower()
    if path.name.startswith(".") or suffix in IMAGE_SUFFIXES:
        return None
    if suffix in UNREAD_SUFFIXES:
        return suffix
    if suffix in _NON_DATA_SUFFIXES or not path.is_file():
        return None
    return _detect_format(path)


def is_possible_data(path: Path) -> bool:
    """Return True if a file in a class folder is neither hidden nor of a kind that accompanies images."""
    return (
        not path.name.startswith(".") and path.suffix.lower() not in _NON_DATA_SUFFIXES and bool(path.suffix)
    )


def find_image_format(start: bytes) -> str | None:
    """Return the format that the first 16 bytes of a file show, supported or not; None for another file."""
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    if start[4:8] == b"ftyp" and start[8:12] in _FTYP_BRANDS:
        return "HEIF"
    if start[:1] == b"P" and start[1:2] in b"123456" and start[2:3].isspace():
        return "PPM"
    return next((name for magic, name in _MAGIC_BYTES.items() if start.startswith(magic)), None)


def _detect_format(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        return None
    image_format = find_image_format(start)
    return None if image_format is None else f"{image_format} without its ending"
