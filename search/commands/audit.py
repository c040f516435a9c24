"""Audits a data set before anything is trained on it.

python -m search audit PATH [--size PIXELS] [--json PATH] [--contact-sheet PNG]
"""

import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from search.commands.terminal import build_console, check_target, explain_errors
from search.config.printable import escape
from search.datasets.audit.findings import GREY_DEVIATION, Audit, audit
from search.datasets.audit.images import Images, read_images
from search.datasets.audit.neighbours import MAX_DIFFERENCE, MAX_DISTANCE, MIN_CORRELATION
from search.datasets.audit.sheet import draw_sheet
from search.record.errors import explain_denied
from trainables.durable import write_file

NAMED = 3
"""Largest number of files that are listed; the JSON has all of them."""
LEGEND = f"""
near-grey    channels deviate from their pixel's mean by less than {GREY_DEVIATION:g} of 255
same file    copies after the first; across two parts, images of the first part
same pixels  the same for files that differ but have equal pixels
look alike   pairs of other images: perceptual hashes within {MAX_DISTANCE} of 64 bits,
             pixels that differ by less than {MAX_DIFFERENCE:g} of 255 on average and correlate
             above {MIN_CORRELATION:g}"""


def main(
    path: Annotated[Path, typer.Argument(help="Folder or zip of images of two classes, with or without splits.")],
    size: Annotated[int, typer.Option(help="Compare at this height and width in pixels.", min=32, max=256)] = 32,
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="PATH", help="Write all findings, with every file name.")
    ] = None,
    sheet_path: Annotated[
        Path | None, typer.Option("--contact-sheet", metavar="PNG", help="Draw examples of near-duplicates.")
    ] = None,
) -> None:
    """Audit a data set: counts, bad files, exact and near duplicates, colour. Nothing is trained or packed."""
    console = build_console()
    with explain_errors():
        for target in (json_path, sheet_path):
            if target:
                check_target(target)
        images, found = _examine(path.expanduser(), size, console)
        show(found, size, console)
        if json_path:
            with explain_denied(f"cannot write {json_path}", "write elsewhere"):
                write_file(json_path, json.dumps(dataclasses.asdict(found), indent=1).encode())
            console.print(f"All findings: {escape(json_path)}")
        if sheet_path and found.near:
            buffer = io.BytesIO()
            draw_sheet(images, found.near).save(buffer, "PNG")
            with explain_denied(f"cannot write {sheet_path}", "write elsewhere"):
                write_file(sheet_path, buffer.getvalue())
            console.print(f"Contact sheet: {escape(sheet_path)}")
        elif sheet_path:
            console.print("No near-duplicates, so no contact sheet.")


def show(found: Audit, size: int, console: Console) -> None:
    """Print the findings for a terminal of 80 columns."""
    console.print(f"{escape(found.source)}: {sum(part.images for part in found.parts):,} images", end="\n\n")
    parts = _build_table("part", "images", "mean red", "green", "blue", "near-grey")
    for part in found.parts:
        colour = [f"{mean:.1f}" for mean in part.colour or ()] or [""] * 3
        grey = "" if part.near_grey is None else f"{100 * part.near_grey:.1f} %"
        parts.add_row(escape(part.name), f"{part.images:,}", *colour, grey)
    console.print(parts)
    console.print()
    repeats = _build_table("twice in", "same file", "same pixels", "look alike")
    for row in found.repeats:
        repeats.add_row(escape(row.relation), *(f"{count:,}" for count in (row.same_file, row.same_pixels, row.near)))
    console.print(repeats)
    console.print()
    console.print(_name_files("Not images", found.bad))
    console.print(_name_files(f"Not {size}x{size}, compared after scaling", found.resized))
    console.print(LEGEND, end="\n\n")


def _examine(path: Path, size: int, console: Console) -> tuple[Images, Audit]:
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("reading the images", total=None)
        images = read_images(path, lambda done, total: progress.update(bar, completed=done, total=total), size)
        progress.update(bar, description="comparing", total=None)
        return images, audit(images)


def _build_table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    return table


def _name_files(heading: str, names: Sequence[str]) -> str:
    """Return the number of files and the names of the first few, one a line."""
    more = ["..."] if len(names) > NAMED else []
    return "\n  ".join([f"{heading}: {len(names):,}", *map(escape, names[:NAMED]), *more])
