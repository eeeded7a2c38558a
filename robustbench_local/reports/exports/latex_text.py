"""Plain text as LaTeX."""

from __future__ import annotations

import re
import unicodedata

from robustbench_local.reports.formatting.text import redact_private_data

_MEANINGS = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "$": r"\$",
        "&": r"\&",
        "#": r"\#",
        "%": r"\%",
        "_": r"\_",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': r"\textquotedbl{}",
        "`": r"\textasciigrave{}",
        "[": "{[}",  # after a row's end it would begin an argument
        "]": "{]}",
        "*": "{*}",  # so would this
        "\N{NO-BREAK SPACE}": "~",
        "\N{EN DASH}": "--",
        "\N{EM DASH}": "---",
        "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
        "\N{INFINITY}": r"$\infty$",
        "\N{LESS-THAN OR EQUAL TO}": r"$\leq$",
        "\N{GREATER-THAN OR EQUAL TO}": r"$\geq$",
        "\N{MULTIPLICATION SIGN}": r"$\times$",
        "\N{MINUS SIGN}": "$-$",
        "\N{DEGREE SIGN}": r"$^\circ$",
        "\N{RIGHTWARDS ARROW}": r"$\rightarrow$",
        "\N{DAGGER}": r"$^\dagger$",
        "\N{DOUBLE DAGGER}": r"$^\ddagger$",
        "\N{FIRST STRONG ISOLATE}": "",
        "\N{POP DIRECTIONAL ISOLATE}": "",
    }
)
_LIGATURE_GAP = re.compile(r"(?<=-)(?=-)|(?<=')(?=')")
_LAST_LATIN_CHARACTER = "\N{LATIN SMALL LETTER Z WITH CARON}"
"""pdfLaTeX typesets letters up to this one without further packages."""


def escape_latex(text: str) -> str:
    """Escape a text so that LaTeX typesets it as it is and runs nothing in it.

    White space becomes single spaces, control characters the replacement character. Hyphens and apostrophes
    that would join into one sign are kept apart.
    """
    plain = " ".join(str(redact_private_data(text)).split())
    return "{}".join(part.translate(_MEANINGS) for part in _LIGATURE_GAP.split(plain))


def needs_unicode_engine(latex: str) -> bool:
    """Return whether a text has characters that pdfLaTeX does not typeset, and LuaLaTeX and XeLaTeX may."""
    return any(_is_beyond_latin(character) for character in latex)


def _is_beyond_latin(character: str) -> bool:
    is_symbol = unicodedata.category(character).startswith("S") and not character.isascii()
    return character > _LAST_LATIN_CHARACTER or is_symbol
