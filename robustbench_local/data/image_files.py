"""Which files are images: those that are read, those in formats that are not, and what merely lies beside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

#: Names of files that are expected to be images in a format that is read.
IMAGE_SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".ppm", ".pgm", ".pbm", ".pnm", ".bmp", ".dib"}
)


def _parse_suffixes(text: str) -> frozenset[str]:
    return frozenset(f".{word}" for word in text.split())


#: Names of files that are images in a format that is not read.
UNREAD_SUFFIXES = _parse_suffixes(
    "tif tiff gif webp avif avifs heic heif hif svg svgz jp2 j2k jpf jpx jpm j2c jxl jxr ico icns cur tga "
    "dds psd psb xcf exr hdr dng cr2 cr3 nef arw orf rw2 raf srw raw pcx pam pfm qoi fits dcm dicom nii "
    "mng eps ai wmf emf sgi rgb ras xbm xpm wdp flif bpg ktx ktx2"
)
#: Files that lie beside images without being data: nothing else of a class can be lost in them.
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
    """Whether a file that is not hidden is an image by its name or first bytes, whether or not it is read."""
    return not path.name.startswith(".") and (
        path.suffix.lower() in IMAGE_SUFFIXES or find_unread_format(path) is not None
    )


def find_unread_format(path: Path) -> str | None:
    """The format of an image that is left aside because it is not read; None for every other file.

    A name without a usual ending is judged by the file's first bytes, so that an image that lost its name
    is not lost with it.
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
    """Whether a file in a class folder is neither hidden nor of a kind that lies beside images."""
    return (
        not path.name.startswith(".") and path.suffix.lower() not in _NON_DATA_SUFFIXES and bool(path.suffix)
    )


def _detect_format(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        return None
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP without its ending"
    if start[4:8] == b"ftyp" and start[8:12] in _FTYP_BRANDS:
        return "HEIF without its ending"
    found = next((name for magic, name in _MAGIC_BYTES.items() if start.startswith(magic)), None)
    return None if found is None else f"{found} without its ending"
