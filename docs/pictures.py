"""Makes the pictures of README.md from a finished study: the live view as SVG, the report as PNG.

    python -m docs.pictures results/local

The report needs Chromium (Debian: chromium and chromium-driver). Use a study of the embedded sample: CIFAKE's images do
not belong in the repository.
"""

import io
import re
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from selenium import webdriver

from search.commands.inspect import Inspected
from search.record.reading import read_study

FOLDER = Path(__file__).parent / "pictures"
MOMENT = 0.55
"""Share of the journal's lines that the live view shows. The journal is append-only: its first lines are an earlier
state of the study."""
TERMINAL = 100, 24
"""Columns and lines of the live view."""
SECTIONS = "body", "#training"
"""Selectors of the parts of the report that are shown."""
PART = 1150, 1200
"""Width and height of a part, in pixels."""


def draw_live_view(study: Path, target: Path) -> None:
    """Write the live view of a study, at a moment when trials were running, as SVG without a font of another host."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / study.name
        copy.mkdir()
        shutil.copy(study / "study.yaml", copy)
        lines = (study / "study.journal").read_bytes().splitlines(keepends=True)
        (copy / "study.journal").write_bytes(b"".join(lines[: int(MOMENT * len(lines))]))
        with read_study(copy) as reader:
            status = Inspected(reader).get_status()
    width, height = TERMINAL
    console = Console(record=True, width=width, height=height, file=io.StringIO(), force_terminal=True)
    console.print(status)
    form = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    target.write_text(console.export_svg(title="python -m search.run", code_format=form, unique_id="live"))


def draw_report(study: Path, target: Path) -> None:
    """Write two parts of a study's report, next to each other, as PNG."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    width, height = PART
    picture = Image.new("RGB", (len(SECTIONS) * width, height))
    try:
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        driver.get((study / "report" / "report.html").resolve().as_uri())
        for column, section in enumerate(SECTIONS):
            driver.execute_script("document.querySelector(arguments[0]).scrollIntoView({behavior: 'instant'})", section)
            picture.paste(Image.open(io.BytesIO(driver.get_screenshot_as_png())), (column * width, 0))
    finally:
        driver.quit()
    picture.quantize(64).save(target, optimize=True)


def main(study: Path) -> None:
    """Write both pictures."""
    FOLDER.mkdir(exist_ok=True)
    draw_live_view(study, FOLDER / "live.svg")
    draw_report(study, FOLDER / "report.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
