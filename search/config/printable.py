"""Escapes text from outside before it is shown: file names, reasons, values of a stranger's file.

All code that shows such text calls this module. Each function serves one output: terminal, CSV, Markdown, LaTeX.
"""

import re
from collections.abc import Mapping
from typing import Any

FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # noqa: RUF001 full-width forms, which count too
"""First characters of a spreadsheet formula. Source: OWASP, CSV Injection; `escape` handles tab and carriage return."""
MARKDOWN_ESCAPES = str.maketrans({sign: f"\\{sign}" for sign in "\\`*<>[]|"})
ENTITY = re.compile(r"&(?=#?\w+;)")
LATEX_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "[": "{[}",  # like the star, it would be read as an argument of the line break before it
        "*": "{*}",
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    }
)


def escape(text: object) -> str:
    r"""Return text as one line that is safe to print in a terminal.

    Control characters, line breaks, characters that change the direction of writing, and bytes of file names that are
    not UTF-8 become escapes such as `\x1b`.
    """
    known = str(text)
    if known.isprintable():
        return known
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in known)


def escape_lines(text: str) -> str:
    """Escape each line of a text."""
    return "\n".join(map(escape, text.split("\n")))


def defuse(cell: Any) -> Any:
    """Return a cell of a CSV file that no spreadsheet runs as a formula: such text gets an apostrophe in front.

    Numbers are unchanged, also those that are text.
    """
    if not isinstance(cell, str):
        return cell
    shown = escape(cell)
    return f"'{shown}" if shown.lstrip().startswith(FORMULA_STARTS) and not _is_number(shown) else shown


def format_params(params: Mapping[str, Any]) -> str:
    """Return parameters as name=value, floats to four digits, safe as `escape`."""
    shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in params.items()}
    return escape(" ".join(f"{name}={value}" for name, value in shown.items()))


def escape_markdown(text: object) -> str:
    """Return Markdown that shows the text literally, also in a table."""
    return ENTITY.sub(r"\\&", escape(text).translate(MARKDOWN_ESCAPES))


def escape_latex(text: object) -> str:
    """Return LaTeX that shows the text literally in a cell of a table."""
    return escape(text).translate(LATEX_ESCAPES)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
