"""One pass over all image files: what cannot be used, and a thumbnail and a digest of everything else."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robustbench_local.counted_nouns import choose_form, format_count
from robustbench_local.data.checks.data_finding import DataFinding
from robustbench_local.data.collect import Listing
from robustbench_local.data.decode import BadImageError, Pixels
from robustbench_local.errors import DataError, RefusedError

THUMBNAIL_SIDE = 32
MAX_ASPECT_RATIO = 4.0
"""Ratio of the longer to the shorter side above which a center crop loses most of an image."""
MIN_SIDE_PIXELS = 8
"""Shorter side below which an image shows nothing."""
MIN_CONTRAST = 1.0
"""Standard deviation of 8-bit gray values below which an image is of one color."""
_EMBEDDING_BATCH = 32
_NAMED = 3

ImageEmbedding = Callable[[Sequence[Pixels]], Tensor]
"""Maps images, each (H, W, C) of any size, to their features (N, D), as a network does."""


@dataclass(frozen=True, kw_only=True)
class SurveyedImages:
    """The readable images of all splits, one entry each, in the order of splits and listings.

    Attributes:
        ids: Ids within their split.
        splits: Names of the splits.
        labels: Names of the classes.
        digests: Digests of the pixels.
        groups: Names of the objects, by split and image; empty strings where none are declared.
        thumbnails: (N, 3, 32, 32), uint8.
        features: (N, D) of an embedding; None without one.
        is_blank: Whether the image is of one color.
    """

    ids: list[str]
    splits: list[str]
    labels: list[str]
    digests: list[bytes]
    groups: list[str]
    thumbnails: Tensor
    features: Tensor | None
    is_blank: list[bool]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass
class _Collected:
    ids: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    thumbnails: list[Pixels] = field(default_factory=list)
    is_blank: list[bool] = field(default_factory=list)
    features: list[Tensor] = field(default_factory=list)
    waiting: list[Pixels] = field(default_factory=list)


def survey_images(
    parts: dict[str, Listing],
    *,
    embed: ImageEmbedding | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[SurveyedImages, list[DataFinding]]:
    """Read every image of every split once.

    Args:
        parts: Split -> its listing.
        embed: Computes features of images while they are in memory.
        progress: Called with (images read, images in total).

    Raises:
        DataError: If no image can be read.
    """
    collected, findings = _Collected(), []
    total, done = sum(len(part.ids) for part in parts.values()), 0
    for split, listing in parts.items():
        findings += [
            DataFinding(
                check="unreadable",
                detail=reason,
                split=split,
                image=image,
                label=listing.class_names[label],
                is_exclusion_suggested=True,
            )
            for image, label, reason in listing.unread_images
        ]
        survey = _SplitSurvey(split, listing)
        for position in range(len(listing.ids)):
            survey.read_image(position, collected, embed)
            done += 1
            if progress is not None:
                progress(done, total)
        findings += survey.findings + survey.summarize_files()
    if not collected.ids:
        raise DataError(
            "no image can be read", where=", ".join(dict.fromkeys(part.where for part in parts.values()))
        )
    _embed_waiting(collected, embed)
    features = torch.cat(collected.features) if collected.features else None
    thumbnails = torch.from_numpy(np.stack(collected.thumbnails)).permute(0, 3, 1, 2).contiguous()
    surveyed = SurveyedImages(
        ids=collected.ids,
        splits=collected.splits,
        labels=collected.labels,
        digests=collected.digests,
        groups=collected.groups,
        thumbnails=thumbnails,
        features=features,
        is_blank=collected.is_blank,
    )
    return surveyed, findings


class _SplitSurvey:
    """The images of one split, read one after the other."""

    def __init__(self, split: str, listing: Listing) -> None:
        self.split, self.listing = split, listing
        self.findings: list[DataFinding] = []
        self._conversions: defaultdict[str, list[str]] = defaultdict(list)
        self._sizes: Counter[tuple[int, int]] = Counter()
        self._gray: list[str] = []

    def read_image(self, position: int, collected: _Collected, embed: ImageEmbedding | None) -> None:
        """Read one image; one that cannot be used becomes a finding."""
        listing, image_id = self.listing, self.listing.ids[position]
        try:
            picture = listing.read_image(position)
        except BadImageError as error:
            self._add("unreadable", position, str(error), is_exclusion_suggested=True)
            return
        except (DataError, RefusedError) as error:
            detail = error.what + (f" ({error.remedy})" if error.remedy else "")
            self._add("unreadable", position, detail, is_exclusion_suggested=True)
            return
        for note in picture.notes:
            self._conversions[note].append(image_id)
        pixels = _convert_to_bytes(picture.pixels)
        self._sizes[pixels.shape[1], pixels.shape[0]] += 1
        if pixels.shape[2] == 1:
            self._gray.append(image_id)
        self._check_shape(position, pixels)
        is_blank = float(pixels.mean(axis=2).std()) < MIN_CONTRAST
        if is_blank:
            self._add("blank-image", position, "all pixels have nearly one color")
        collected.ids.append(image_id)
        collected.splits.append(self.split)
        collected.labels.append(listing.class_names[int(listing.labels[position])])
        collected.groups.append("" if listing.groups is None else str(listing.groups[position]))
        content = f"{pixels.shape}".encode() + np.ascontiguousarray(pixels).tobytes()
        collected.digests.append(hashlib.sha256(content).digest())
        collected.thumbnails.append(_make_thumbnail(pixels))
        collected.is_blank.append(is_blank)
        if embed is not None:
            collected.waiting.append(picture.pixels)
            if len(collected.waiting) == _EMBEDDING_BATCH:
                _embed_waiting(collected, embed)

    def summarize_files(self) -> list[DataFinding]:
        """Return one finding for each kind of conversion, and one for images of many sizes."""
        if self._gray and len(self._gray) < sum(self._sizes.values()):
            self._conversions["gray among color images: set gray_to_rgb"] = self._gray
        findings = [
            DataFinding(
                check="conversion",
                split=self.split,
                detail=f"{format_count(len(images), 'image')}: {note}, such as {', '.join(images[:_NAMED])}",
            )
            for note, images in self._conversions.items()
        ]
        if len(self._sizes) > 1:
            areas = sorted(self._sizes, key=lambda size: size[0] * size[1])
            small, large = (f"{size[0]}x{size[1]}" for size in (areas[0], areas[-1]))
            what = f"{format_count(len(self._sizes), 'size')} of images, {small} to {large}: set size"
            findings.append(DataFinding(check="sizes", split=self.split, detail=what))
        return findings

    def _check_shape(self, position: int, pixels: Pixels) -> None:
        short, long = sorted(pixels.shape[:2])
        if long > MAX_ASPECT_RATIO * short or short < MIN_SIDE_PIXELS:
            size = f"{pixels.shape[1]}x{pixels.shape[0]} {choose_form(long, 'pixel', 'pixels')}"
            self._add("extreme-shape", position, size)

    def _add(self, check: str, position: int, detail: str, *, is_exclusion_suggested: bool = False) -> None:
        self.findings.append(
            DataFinding(
                check=check,
                detail=detail,
                split=self.split,
                image=self.listing.ids[position],
                label=self.listing.class_names[int(self.listing.labels[position])],
                is_exclusion_suggested=is_exclusion_suggested,
            )
        )


def _embed_waiting(collected: _Collected, embed: ImageEmbedding | None) -> None:
    if embed is not None and collected.waiting:
        collected.features.append(embed(collected.waiting).float().cpu())
        collected.waiting.clear()


def _convert_to_bytes(pixels: Pixels) -> Pixels:
    if pixels.dtype == np.uint8:
        return pixels
    return (pixels.clip(0, 1) * 255).round().astype(np.uint8)


def _make_thumbnail(pixels: Pixels) -> Pixels:
    """Return the whole image, stretched to 32 by 32 pixels, in RGB."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    size = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    if image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)
    return np.asarray(image, dtype=np.uint8)
