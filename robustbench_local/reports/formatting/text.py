"""How the reports write numbers, budgets and other people's strings."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from robustbench_local.statistics import Estimate
from robustbench_local.store import SurfaceRecord

SPACE = "\N{NO-BREAK SPACE}"
DASH = "\N{EN DASH}"
NOTHING = "\N{EM DASH}"
MOST_NAMED = 6
"""Cells that one sentence names; the table of cells has them all."""

_HOMES = re.compile(r"(?:/home|/Users|[A-Za-z]:\\Users)[/\\][^/\\\s:'\"]+")
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_THREAT_IN_NAME = re.compile(r"-(?:linf|l2|l1|spatial)-[0-9.]+(?=$|\[)")
_WHERE = {"sticker": "sign", "patch": "image"}
"""What the area of an object is a share of."""
_SHIFT = 1 / 300
"""Share of the side that a spatial attack may shift an image by, for each degree that it may turn it."""


def percent(share: float) -> str:
    """A share as ``54.2 %``; never a rounded 0 or 100 when it is neither."""
    if math.isnan(share):
        return NOTHING
    if 0 < share < 0.0005:
        return f"<0.1{SPACE}%"
    if 0.9995 <= share < 1:
        return f">99.9{SPACE}%"
    return f"{100 * share:.1f}{SPACE}%"


def interval(estimate: Estimate) -> str:
    """The confidence interval as ``49.8-58.6 %``, with an en dash."""
    return f"{100 * estimate.low:.1f}{DASH}{100 * estimate.high:.1f}{SPACE}%" if estimate.known else NOTHING


def full(estimate: Estimate) -> str:
    """Value, interval and n in one piece: ``54.2 % (49.8-58.6 %, n = 500)``."""
    if not estimate.known:
        return NOTHING
    return f"{percent(estimate.value)} ({interval(estimate)}, n{SPACE}={SPACE}{estimate.n})"


def radius(eps: float) -> str:
    """A radius as people write it: ``8/255``, ``0.3``."""
    if not math.isfinite(eps):
        return NOTHING
    if math.isclose(eps, round(eps, 3), rel_tol=0, abs_tol=1e-9):
        return f"{eps:.3f}".rstrip("0").rstrip(".")
    levels = eps * 255
    if math.isclose(levels, round(levels), rel_tol=0, abs_tol=1e-4):
        return f"{round(levels)}/255"
    return f"{eps:.4g}"


def distance(norm: str, size: float, *, beyond: float = math.inf) -> str:
    """A distance with three digits, in 255ths where that is how people write radii.

    Args:
        norm: ``Linf``, ``L2`` or ``L1``.
        size: In pixel units of [0, 1]; infinite if it is beyond what was looked for.
        beyond: The largest distance that was looked for.
    """
    if math.isnan(size):
        return NOTHING
    if math.isinf(size):
        return f">{SPACE}{radius(beyond)}" if math.isfinite(beyond) else "\N{INFINITY}"
    return f"{_digits(255 * size)}/255" if norm == "Linf" else _digits(size)


def times(ratio: float) -> str:
    """A ratio of distances, at least 1; infinite where the attack missed what others found."""
    return f"{ratio:.2f}{SPACE}\N{MULTIPLICATION SIGN}" if math.isfinite(ratio) else "\N{INFINITY}"


def norm_sign(norm: str) -> str:
    """The norm with its infinity sign: ``Linf`` is written with the sign, others as they are."""
    return "L\N{INFINITY}" if norm == "Linf" else norm


def budget(norm: str, eps: float, surface: SurfaceRecord | None = None) -> str:
    """The ball in symbols, e.g. L-infinity at most 8/255; turns and shifts, severities or areas in words.

    Args:
        norm: The norm or family.
        eps: Its radius, or what its family has in its place.
        surface: What a sticker may be on, where the run knows.
    """
    at_most = f"{SPACE}\N{LESS-THAN OR EQUAL TO}{SPACE}"
    if norm == "spatial":
        return f"rotation{at_most}{_degrees(eps)}, shift{at_most}{_shift(eps)}"
    if norm == "corruption":
        return f"severity{SPACE}{radius(eps)}"
    if norm in _WHERE:
        return f"{norm} {_place(norm, eps, surface)}"
    return f"{norm_sign(norm)}{at_most}{radius(eps)}"


def permission(norm: str, eps: float, surface: SurfaceRecord | None = None) -> str:
    """What the attacker may do, in words that follow "an attacker may"; arguments as for ``budget``."""
    if norm == "Linf":
        return f"change every pixel by at most {radius(eps)}"
    if norm == "spatial":
        return f"turn the image by up to {_degrees(eps)} and shift it by up to {_shift(eps)} of its side"
    if norm == "sticker":
        size = f" ({percent(surface.share)} of the image, on average)" if surface else ""
        return f"put a sticker {_place(norm, eps, surface)}{size}"
    if norm == "patch":
        return f"put a patch beside the sign, {_share(eps)} of the image large"
    return f"change the image by at most {radius(eps)} in {norm} norm"


def axis(norm: str) -> str:
    """What an axis of radii says."""
    if norm == "spatial":
        return "largest rotation, in degrees; shifts grow with it"
    return f"radius eps of the {norm_sign(norm)} ball"


def sight(knowledge: str, surrogate: str | None) -> str:
    """What the attacker saw, in few words: ``white-box``, ``scores``, ``transfer from X``, ..."""
    if knowledge == "naive":
        return "all but the defense"
    return knowledge if surrogate is None else f"transfer from {isolated(surrogate)}"


def family(attack: str) -> str:
    """An attack's name without its threat model: ``pgd50-linf-8`` is of the family ``pgd50``."""
    return _THREAT_IN_NAME.sub("", attack)


def isolated(text: str) -> str:
    """A name for use inside a sentence: right-to-left letters do not turn the words and digits around it."""
    turns = any(unicodedata.bidirectional(sign) in {"R", "AL", "AN"} for sign in text)
    return f"\N{FIRST STRONG ISOLATE}{text}\N{POP DIRECTIONAL ISOLATE}" if turns else text


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: ``1 image``, ``12,000 images``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listing(parts: Sequence[str]) -> str:
    """Parts joined as in a sentence: ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def list_cells(named: Sequence[str]) -> str:
    """Cells, or what else stands for some, as in a sentence; the first `MOST_NAMED` if they are more."""
    shown, more = named[:MOST_NAMED], len(named) - MOST_NAMED
    return listing([*shown, counted(more, "more cell")] if more > 0 else shown)


def duration(seconds: float) -> str:
    """Seconds as ``42 s``, ``3 min 05 s`` or ``2 h 10 min``."""
    if seconds < 10:
        return f"{seconds:.1f}{SPACE}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{SPACE}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}{SPACE}min {rest:02d}{SPACE}s"
    return f"{minutes // 60}{SPACE}h {minutes % 60:02d}{SPACE}min"


def p_value(value: float) -> str:
    """A p-value as ``p = 0.031`` or ``p < 0.001``."""
    if value < 0.001:
        return f"p{SPACE}<{SPACE}0.001"
    return f"p{SPACE}={SPACE}{value:.3f}"


def _degrees(angle: float) -> str:
    return f"{radius(angle)}\N{DEGREE SIGN}"


def _place(norm: str, area: float, surface: SurfaceRecord | None) -> str:
    """Where an object is, and on how much of that; before surfaces were recorded a sticker's was the sign."""
    if surface is not None and area == 1:
        return f"anywhere on {surface.what}"
    return f"on {_share(area)} of {surface.what if surface else f'the {_WHERE[norm]}'}"


def _share(area: float) -> str:
    return f"{100 * area:.3g}{SPACE}%"


def _shift(angle: float) -> str:
    return f"{100 * angle * _SHIFT:.3g}{SPACE}%"


def _digits(number: float) -> str:
    """Three significant digits, as a plain number."""
    text = f"{number:#.3g}"
    return f"{number:,.0f}" if "e+" in text else text.rstrip(".")


def private(value: Any) -> Any:
    """Strip from strings, however deeply nested, what a report must not carry to its readers (F79).

    Home folders become ``~``, credentials inside addresses become ``***``; control characters, those that
    turn the direction of text among them, and broken UTF-8 are replaced by something visible.
    """
    if isinstance(value, str):
        text = value.encode("utf-8", "backslashreplace").decode()
        home = str(Path.home())
        if Path(home).parent != Path(home):
            text = re.sub(rf"{re.escape(home)}(?=[/\\\s:'\"]|$)", "~", text)
        return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", _CREDENTIALS.sub("***", _HOMES.sub("~", text)))
    if isinstance(value, dict):
        return {private(key): private(item) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [private(item) for item in value]
    return value
