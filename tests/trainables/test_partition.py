import subprocess
import sys
from pathlib import Path

import pytest

from trainables.errors import InputError
from trainables.pack import pack
from trainables.partition import draw_train, split_train
from trainables.splits import open_full_train, open_train

ROOT = Path(__file__).parents[2]


@pytest.fixture
def packed(image_folder: Path, tmp_path: Path) -> Path:
    return pack(image_folder, tmp_path / "cache")


def test_the_two_parts_are_what_is_opened_and_together_what_is_drawn(packed: Path) -> None:
    train, validation = split_train(packed, val_fraction=0.25, seed=3, max_images=20)
    opened = open_train(packed, val_fraction=0.25, seed=3, max_images=20)
    assert [train.tolist(), validation.tolist()] == [split.indices.tolist() for split in opened]
    drawn = draw_train(packed, seed=3, max_images=20).tolist()
    assert drawn == sorted([*train, *validation]) == open_full_train(packed, seed=3, max_images=20).indices.tolist()


def test_a_pack_without_its_images_is_noticed_before_anything_is_opened(packed: Path) -> None:
    (packed / "train.images").unlink()
    with pytest.raises(InputError, match=r"train\.images is missing: delete the folder"):
        split_train(packed, val_fraction=0.25, seed=0, max_images=None)


def test_a_pack_is_found_and_split_without_torch(image_folder: Path, packed: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from trainables.pack import pack\n"
        "from trainables.partition import split_train\n"
        f"packed = pack(Path({str(image_folder)!r}), Path({str(packed.parent)!r}))\n"
        "split_train(packed, val_fraction=0.25, seed=0, max_images=None)\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
