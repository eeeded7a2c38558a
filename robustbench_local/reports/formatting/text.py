"""Formatting of numbers, perturbation budgets and strings from outside."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from robustbench_local import number_parser
from robustbench_local.counted_nouns import format_count as format_count  # noqa: PLC0414 - for the rest of reports
from robustbench_local.paired_tests import Comparison
from robustbench_local.statistics import Estimate
from robustbench_local.store import SurfaceRecord

EN_DASH = "\N{EN DASH}"
MINUS_SIGN = "\N{MINUS SIGN}"
MISSING_TEXT = "\N{EM DASH}"
MAX_NAMED_CELLS = 6
"""Cells named in one sentence; the table of cells lists all of them."""

_HOME_PATTERN = re.compile(r"(?:/home|/Users|[A-Za-z]:\\Users)[/\\][^/\\\s:'\"]+")
_CREDENTIALS_PATTERN = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_CONTROL_PATTERN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_THREAT_SUFFIX_PATTERN = re.compile(r"-(?:linf|l2|l1|l0|spatial)-[0-9.]+(?=$|\[)")
_SURFACE_BY_NORM = {"sticker": "sign", "patch": "image"}
"""The surface that the area of an object is a share of."""
_SHIFT_SHARE_PER_DEGREE = 1 / 300
"""Share of the side that a spatial attack may shift an image by, for each degree that it may turn it."""


def format_percent(share: float) -> str:
    """Format a share as ``54.2%``; a value is never rounded to 0 or 100."""
    if math.isnan(share):
        return MISSING_TEXT
    if 0 < share < 0.0005:
        return "<0.1%"
    if 0.9995 <= share < 1:
        return ">99.9%"
    return f"{100 * share:.1f}%"


def format_interval(estimate: Estimate) -> str:
    """Format the confidence interval as ``49.8-58.6%``, with an en dash."""
    return (
        f"{100 * estimate.low:.1f}{EN_DASH}{100 * estimate.high:.1f}%" if estimate.is_known else MISSING_TEXT
    )


def format_estimate(estimate: Estimate) -> str:
    """Format value, interval and n: ``54.2% (49.8-58.6%, n = 500)``, or ``n = 500 images in 40 groups``."""
    if not estimate.is_known:
        return MISSING_TEXT
    return f"{format_percent(estimate.value)} ({format_interval(estimate)}, {format_sample(estimate)})"


def format_amount(amount: float) -> str:
    """Format an amount of at least 0, which may be infinite, with three significant digits: ``12.3``."""
    if math.isnan(amount):
        return MISSING_TEXT
    if math.isinf(amount):
        return "\N{INFINITY}"
    return f"{amount:,.0f}" if amount >= 1000 else f"{amount:.3g}"


def format_points(difference: float) -> str:
    """Format a difference of shares in percentage points, with its sign: ``+4.5``, or a dash if unknown."""
    if math.isnan(difference):
        return MISSING_TEXT
    points = f"{100 * difference:+.1f}"
    return "0.0" if float(points) == 0 else points.replace("-", MINUS_SIGN)


def format_sample(estimate: Estimate) -> str:
    """Format n: ``n = 500``, ``n = 500 images in 40 groups``, or in phases ``n = 500, all attacks on 20``."""
    if estimate.phases:
        return f"n = {estimate.n:,}, all attacks on {estimate.phases[-1]:,}"
    if not estimate.groups:
        return f"n = {estimate.n:,}"
    return f"n = {format_count(estimate.n, 'image')} in {format_count(estimate.groups, 'group')}"


def format_radius(eps: float) -> str:
    """Format a radius as a fraction or number: ``8/255``, ``0.3``; a dash if it is not finite."""
    return number_parser.format_radius(eps) if math.isfinite(eps) else MISSING_TEXT


def format_distance(norm: str, size: float, *, max_radius: float = math.inf) -> str:
    """Format a distance with three digits, in 255ths for norms whose radii are written so.

    Args:
        norm: ``Linf``, ``L2``, ``L1`` or ``L0``.
        size: In pixel units of [0, 1]; infinite if it is beyond the searched radius.
        max_radius: The largest distance that was searched.
    """
    if math.isnan(size):
        return MISSING_TEXT
    if math.isinf(size):
        if math.isinf(max_radius):
            return "\N{INFINITY}"
        return f"> {_format_pixels(max_radius) if norm == 'L0' else format_radius(max_radius)}"
    if norm == "L0":
        return _format_pixels(size)
    return f"{_format_digits(255 * size)}/255" if norm == "Linf" else _format_digits(size)


def format_size_within(size: float, max_size: float) -> str:
    """Format a measured L-infinity size in the notation of its budget, so that the two can be compared.

    Args:
        size: In pixel units of [0, 1].
        max_size: The budget: 0.3 makes ``0.298``, and 8/255 makes ``7.5/255``.
    """
    if not math.isfinite(size):
        return MISSING_TEXT
    return f"{255 * size:.3g}/255" if "/" in format_radius(max_size) else f"{size:.3g}"


def format_ratio(ratio: float) -> str:
    """Format a ratio of distances, at least 1; infinite where the attack missed what others found."""
    return f"{ratio:.2f} \N{MULTIPLICATION SIGN}" if math.isfinite(ratio) else "\N{INFINITY}"


def format_norm(norm: str) -> str:
    """Format the norm; ``Linf`` becomes L with the infinity sign."""
    return "L\N{INFINITY}" if norm == "Linf" else norm


def format_budget(norm: str, eps: float, surface: SurfaceRecord | None = None) -> str:
    """Format the perturbation budget, e.g. L-infinity at most 8/255; other families in words.

    Args:
        norm: The norm or family.
        eps: Its radius, or the size that its family uses instead.
        surface: The surface that a sticker may cover, if the run recorded it.
    """
    at_most = " \N{LESS-THAN OR EQUAL TO} "
    if norm == "spatial":
        return f"rotation{at_most}{_format_degrees(eps)}, shift{at_most}{_format_shift(eps)}"
    if norm == "corruption":
        return f"severity {format_radius(eps)}"
    if norm in _SURFACE_BY_NORM:
        return f"{norm} {_format_surface(norm, eps, surface)}"
    if norm == "L0":
        return f"L0{at_most}{_format_pixels(eps)}"
    return f"{format_norm(norm)}{at_most}{format_radius(eps)}"


def describe_budget(norm: str, eps: float, surface: SurfaceRecord | None = None) -> str:
    """Describe the budget in words that follow "an attacker may"; arguments as in ``format_budget``."""
    if norm == "Linf":
        return f"change every pixel by at most {format_radius(eps)}"
    if norm == "L0":
        return f"change at most {_format_pixels(eps)}, in any way"
    if norm == "spatial":
        return (
            f"rotate the image by up to {_format_degrees(eps)} and shift it by up to {_format_shift(eps)} "
            f"of its side"
        )
    if norm == "sticker":
        size = f" ({format_percent(surface.coverable_share)} of the image, on average)" if surface else ""
        return f"put a sticker {_format_surface(norm, eps, surface)}{size}"
    if norm == "patch":
        return f"put a patch beside the sign on {_format_area_share(eps)} of the image"
    return f"change the image by at most {format_radius(eps)} in {norm} norm"


def format_axis_label(norm: str) -> str:
    """Format the label of an axis of radii."""
    if norm == "spatial":
        return "largest rotation in degrees; shifts grow with it"
    if norm == "L0":
        return "number of changed pixels (L0)"
    return f"perturbation budget eps ({format_norm(norm)})"


def format_knowledge(knowledge: str, surrogate: str | None) -> str:
    """Format the attacker's knowledge: ``white-box``, ``scores``, ``transfer from X``, ..."""
    if knowledge == "naive":
        return "everything except the defense"
    return knowledge if surrogate is None else f"transfer from {isolate_direction(surrogate)}"


def get_attack_family(attack: str) -> str:
    """Return an attack's name without its threat model: ``pgd50`` for ``pgd50-linf-8``."""
    return _THREAT_SUFFIX_PATTERN.sub("", attack)


def _format_pixels(count: float) -> str:
    return format_count(round(count), "pixel")


def isolate_direction(text: str) -> str:
    """Isolate the text direction of a name, so that right-to-left letters do not reorder the sentence."""
    turns = any(unicodedata.bidirectional(sign) in {"R", "AL", "AN"} for sign in text)
    return f"\N{FIRST STRONG ISOLATE}{text}\N{POP DIRECTIONAL ISOLATE}" if turns else text


def shorten_text(text: str, max_characters: int) -> str:
    """Shorten a text to at most this many characters, with an ellipsis for its middle."""
    if len(text) <= max_characters:
        return text
    end = max_characters // 4
    return f"{text[: max_characters - end - 1].rstrip()}\N{HORIZONTAL ELLIPSIS}{text[-end:].lstrip()}"


def join_extremes(parts: Sequence[str], total: int) -> str:
    """Join what is said of each model; of many models, of the highest and of the lowest.

    Args:
        parts: ``name: value`` of each model, or of the highest and of the lowest.
        total: Number of models.
    """
    if len(parts) == total:
        return "; ".join(parts)
    return f"of {total:,} models, the highest is {parts[0]}; the lowest is {parts[-1]}"


def join_in_sentence(parts: Sequence[str]) -> str:
    """Join parts as in a sentence: ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def format_cells(named: Sequence[str]) -> str:
    """Join the names of cells as in a sentence; at most the first `MAX_NAMED_CELLS`."""
    shown, more = named[:MAX_NAMED_CELLS], len(named) - MAX_NAMED_CELLS
    return join_in_sentence([*shown, format_count(more, "more cell")] if more > 0 else shown)


def format_duration(seconds: float) -> str:
    """Format seconds as ``42 s``, ``3 min 05 s`` or ``2 h 10 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def format_mebibytes(size: float) -> str:
    """Format a number of bytes in MiB: ``512 MiB``."""
    return f"{round(size / 2**20):,} MiB"


def format_p_value(value: float) -> str:
    """Format a p-value as ``p = 0.031`` or ``p < 0.001``."""
    if value < 0.001:
        return "p < 0.001"
    return f"p = {value:.3f}"


def format_test(test: Comparison) -> str:
    """Format the p-value of a paired test, and the adjusted one where it is one of several tests."""
    exact = f"{_format_test_name(test)} {format_p_value(test.p_value)}"
    if test.adjusted_p_value is None or test.family_size == 1:
        return exact
    return f"{exact}, {format_p_value(test.adjusted_p_value)} adjusted for {test.family_size} pairs (Holm)"


def _format_test_name(test: Comparison) -> str:
    """Format the name of the test; over groups, McNemar's test is one of flipped signs."""
    return f"sign-flip test over {format_count(test.groups, 'group')}" if test.groups else "exact McNemar"


def _format_degrees(angle: float) -> str:
    return f"{format_radius(angle)}\N{DEGREE SIGN}"


def _format_surface(norm: str, area: float, surface: SurfaceRecord | None) -> str:
    """Format the surface of an object and its share; old runs without a surface assume the sign."""
    if surface is not None and area == 1:
        return f"anywhere on {surface.what}"
    return f"on {_format_area_share(area)} of {surface.what if surface else f'the {_SURFACE_BY_NORM[norm]}'}"


def _format_area_share(area: float) -> str:
    return f"{100 * area:.3g}%"


def _format_shift(angle: float) -> str:
    return f"{100 * angle * _SHIFT_SHARE_PER_DEGREE:.3g}%"


def _format_digits(number: float) -> str:
    """Format three significant digits without an exponent."""
    text = f"{number:#.3g}"
    return f"{number:,.0f}" if "e+" in text else text.rstrip(".")


def redact_private_data(value: Any) -> Any:
    """Remove private data from strings at any depth of nested data (F79).

    Home folders become ``~``, credentials inside addresses become ``***``; control characters, those that
    turn the direction of text among them, and broken UTF-8 are replaced by something visible.
    """
    return _redact_value(value, _compile_home_pattern(Path.home()))


def _redact_value(value: Any, home: re.Pattern[str]) -> Any:
    """Redact a value; ``home`` matches this user's home folder."""
    if isinstance(value, str):
        text = home.sub("~", value.encode("utf-8", "backslashreplace").decode())
        return _CONTROL_PATTERN.sub(
            "\N{REPLACEMENT CHARACTER}", _CREDENTIALS_PATTERN.sub("***", _HOME_PATTERN.sub("~", text))
        )
    if isinstance(value, dict):
        return {_redact_value(key, home): _redact_value(item, home) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [_redact_value(item, home) for item in value]
    return value


@cache
def _compile_home_pattern(home: Path) -> re.Pattern[str]:
    """Compile a pattern for a home folder at the start of a path; it never matches the root folder."""
    return re.compile(rf"{re.escape(str(home))}(?=[/\\\s:'\"]|$)" if home.parent != home else "(?!)")
