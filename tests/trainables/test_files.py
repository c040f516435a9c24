from pathlib import Path

import torch

from trainables import checkpoint
from trainables.files import create_file


def test_a_link_under_the_name_is_replaced_and_what_it_points_to_stays(tmp_path: Path) -> None:
    outside, path = tmp_path / "outside", tmp_path / "state.partial"
    outside.write_bytes(b"mine")
    path.symlink_to(outside)
    with create_file(path) as file:
        file.write(b"new")
    assert (outside.read_bytes(), path.read_bytes(), path.is_symlink()) == (b"mine", b"new", False)


def test_a_checkpoint_is_not_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    for suffix in ("", ".partial", ".previous"):
        (tmp_path / f"state{suffix}").symlink_to(outside)
    checkpoint.save(tmp_path / "state", {"weight": torch.ones(1)})
    checkpoint.save(tmp_path / "state", {"weight": torch.zeros(1)})
    assert outside.read_bytes() == b"mine"
    assert checkpoint.load(tmp_path / "state") == {"weight": torch.zeros(1)}
