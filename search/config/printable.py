"""What foreign text becomes before a terminal, a table or a page shows it: names, reasons, values of a stranger's file.

Every place that shows such text uses this module, and each function is the rule of one kind of reader.
"""

from typing import Any

FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # noqa: RUF001 full-width forms, which count too
"""What begins a formula in a spreadsheet. Source: OWASP, CSV Injection. Tab and carriage return are escaped anyway."""
MARKDOWN_ESCAPES = str.maketrans({sign: f"\\{sign}" for sign in "\\`*<>[]|"})
LATEX_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "[": "{[}",  # which, with the star, would be an argument of the line break before it
        "*": "{*}",
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    }
)


def escape(text: object) -> str:
    r"""Return text in one line that a terminal can show.

    Control characters, line breaks, characters that change the direction of writing, and the bytes of a file name that
    is not UTF-8 become escapes such as `\x1b`.
    """
    known = str(text)
    if known.isprintable():
        return known
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in known)


def escape_lines(text: str) -> str:
    """Return text of several lines, each as `escape` returns it."""
    return "\n".join(map(escape, text.split("\n")))


def defuse(cell: Any) -> Any:
    """Return a cell of a CSV file such that no spreadsheet runs it: a formula gets an apostrophe in front.

    Numbers stay what they are, also those that are written as text.
    """
    if not isinstance(cell, str):
        return cell
    shown = escape(cell)
    return f"'{shown}" if shown.lstrip().startswith(FORMULA_STARTS) and not _is_number(shown) else shown


def escape_markdown(text: object) -> str:
    """Return text that Markdown shows as it is, in a table too."""
    return escape(text).translate(MARKDOWN_ESCAPES)


def escape_latex(text: object) -> str:
    """Return text that LaTeX shows as it is, in a cell of a table."""
    return escape(text).translate(LATEX_ESCAPES)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
