"""The command line of the audit: what it prints, writes and refuses."""

import json
import shutil

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from search.commands.audit import main

APP = typer.Typer()
APP.command()(main)


@pytest.fixture
def audit_files(tmp_path, monkeypatch):
    """Return a function that calls the command line in tmp_path and returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        result = CliRunner().invoke(APP, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return call


@pytest.fixture
def flawed(image_folder):
    """The images with one of each flaw."""
    shutil.copy(image_folder / "train/FAKE/0.png", image_folder / "test/FAKE/leak.png")
    gradient = Image.linear_gradient("L").resize((32, 32)).convert("RGB")
    gradient.save(image_folder / "train/REAL/gradient [red].png")
    gradient.point(lambda level: min(level + 5, 255)).save(image_folder / "test/REAL/brighter.png")
    for number in range(4):
        (image_folder / f"train/REAL/bad{number}\n.png").write_bytes(b"not an image")
    return image_folder


@pytest.mark.usefixtures("flawed")
def test_the_tables_are_plain_and_fit_80_columns(audit_files):
    code, stdout, stderr = audit_files("images")
    assert (code, stderr) == (0, "")
    lines = stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "images: 53 images"
    cells = [line.split() for line in lines]
    assert ["train/REAL", "and", "test/REAL", "0", "0", "1"] in cells
    assert ["train/FAKE", "and", "test/FAKE", "1", "0", "0"] in cells
    assert [row[:2] + row[-2:] for row in cells if row[:2] == ["test/REAL", "7"]] == [["test/REAL", "7", "14.3", "%"]]
    start = lines.index("Not images: 4")
    assert lines[start + 1 : start + 5] == [*(rf"  train/REAL/bad{number}\n.png" for number in range(3)), "  ..."]
    assert lines[start + 5] == "Not 32x32, compared after scaling: 0"


@pytest.mark.usefixtures("flawed")
def test_the_json_names_every_file(audit_files, tmp_path):
    code, _, _ = audit_files("images", "--json", "audit.json")
    assert code == 0
    found = json.loads((tmp_path / "audit.json").read_text())
    assert len(found["bad"]) == 4
    assert found["copies"] == [["train/FAKE/0.png", "test/FAKE/leak.png"]]
    assert found["near"][0]["names"] == ["train/REAL/gradient [red].png", "test/REAL/brighter.png"]
    assert [part["images"] for part in found["parts"]] == [14, 27, 5, 7]


def test_the_contact_sheet_shows_both_images_of_a_pair(audit_files, flawed, tmp_path):
    assert audit_files("images", "--contact-sheet", "near.png")[0] == 0
    with Image.open(tmp_path / "near.png") as sheet, Image.open(flawed / "train/REAL/gradient [red].png") as tile:
        left = sheet.crop((8, 8 + 26, 8 + 96, 8 + 26 + 96))
        assert left.tobytes() == tile.resize((96, 96), Image.Resampling.NEAREST).tobytes()
        right = sheet.crop((8 + 96, 8 + 26, 8 + 192, 8 + 26 + 96))
        assert right.getpixel((50, 50)) == tuple(level + 5 for level in left.getpixel((50, 50)))


@pytest.mark.usefixtures("image_folder")
def test_without_near_duplicates_there_is_no_contact_sheet(audit_files, tmp_path):
    code, stdout, _ = audit_files("images", "--contact-sheet", "near.png")
    assert code == 0
    assert "No near-duplicates, so no contact sheet." in stdout
    assert not (tmp_path / "near.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.zip"], "nowhere.zip does not exist"),
        (["broken.zip"], "broken.zip is a corrupt zip"),
        (["notes.txt"], "notes.txt is neither a folder nor a zip"),
        (["images/train/FAKE"], "images/train/FAKE has 0 classes"),
        (["images", "--json", "notes.txt"], "notes.txt exists: remove it"),
        (["images", "--contact-sheet", "nowhere/near.png"], "nowhere is not a folder"),
    ],
)
@pytest.mark.usefixtures("image_folder")
def test_bad_input_is_one_sentence_and_exit_code_2(audit_files, tmp_path, arguments, message):
    (tmp_path / "broken.zip").write_bytes(b"PK no zip")
    (tmp_path / "notes.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    code, stdout, stderr = audit_files(*arguments)
    assert (code, stdout) == (2, "")
    assert stderr.startswith("error: ")
    assert message in stderr
    assert len(stderr.strip().splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "notes.txt").read_text() == "mine"
