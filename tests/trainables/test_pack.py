import copy
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from search.datasets.audit.images import read_images
from trainables.decode import decode_chunks
from trainables.errors import InputError
from trainables.layout import read_layout
from trainables.pack import pack
from trainables.pack_info import load_info, verify
from trainables.source import open_source
from trainables.splits import open_full_train, open_test

PART = "train/REAL"
CIFAKE = os.environ.get("CIFAKE_PATH")
needs_cifake = pytest.mark.skipif(CIFAKE is None, reason="needs the real data: CIFAKE_PATH names no zip or folder")


def _read(packed: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in packed.iterdir() if path.name != "pack.json"}


def _open_rgb(path: Path) -> np.ndarray:
    """The pixels as Pillow reads them."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _find_image(packed: Path, name: str, folder: Path) -> np.ndarray:
    """The packed pixels of one file of train/REAL."""
    names = sorted(path.name for path in (folder / PART).iterdir())
    counts = load_info(packed).counts["train"]
    images = np.fromfile(packed / "train.images", dtype=np.uint8).reshape(-1, 32, 32, 3)
    return images[counts["FAKE"] + names.index(name)]


def test_every_image_is_packed_as_it_is_under_its_label(image_folder, cache):
    packed = pack(image_folder, cache)
    info = load_info(packed)
    assert info.counts == {"train": {"FAKE": 14, "REAL": 26}, "test": {"FAKE": 4, "REAL": 6}}
    assert (info.skipped, info.leaked, info.duplicates) == ([], 0, 0)
    assert info.source == str(image_folder)
    test = open_test(packed)
    files = [*sorted((image_folder / "test/FAKE").iterdir()), *sorted((image_folder / "test/REAL").iterdir())]
    assert test.labels.tolist() == [0] * 4 + [1] * 6
    for image, file in zip(test.images.numpy(), files, strict=True):
        assert np.array_equal(image, _open_rgb(file))
    verify(packed)


def test_a_zip_and_its_folder_give_the_same_pack(image_folder, image_zip, tmp_path):
    first, second = pack(image_folder, tmp_path / "a"), pack(image_zip, tmp_path / "b")
    assert first.name == second.name
    assert load_info(first).fingerprint == load_info(second).fingerprint
    assert _read(first) == _read(second)


def test_the_order_of_the_files_in_a_zip_does_not_matter(image_zip, tmp_path):
    turned = tmp_path / "turned.zip"
    with zipfile.ZipFile(image_zip) as old, zipfile.ZipFile(turned, "w") as new:
        for name in reversed(old.namelist()):
            new.writestr(f"./{name}", old.read(name))
    assert _read(pack(image_zip, tmp_path / "a")) == _read(pack(turned, tmp_path / "b"))


def test_other_content_gives_another_fingerprint(image_folder, cache, write_noise):
    before = pack(image_folder, cache)
    write_noise(image_folder / PART / "3.png", 9)
    after = pack(image_folder, cache)
    assert before != after
    assert load_info(before).fingerprint != load_info(after).fingerprint
    verify(before)


def test_an_unchanged_source_is_found_without_reading_it_again(image_folder, image_zip, cache):
    calls: list[tuple[int, int]] = []
    for source in (image_folder, image_zip):
        packed = pack(source, cache)
        assert pack(source, cache, progress=lambda *call: calls.append(call)) == packed
    assert calls == []


def test_a_copied_source_is_recognised_by_its_content(image_folder, cache, tmp_path):
    packed = pack(image_folder, cache)
    before = {path: path.stat().st_mtime_ns for path in packed.iterdir()}
    copied = shutil.copytree(image_folder, tmp_path / "copy")
    assert pack(copied, cache) == packed
    assert {path: path.stat().st_mtime_ns for path in packed.iterdir()} == before


def forge(content, crc):
    """Return the content with four bytes at its end with which it has another CRC-32."""
    table = [zlib.crc32(bytes([first])) ^ zlib.crc32(b"\0") for first in range(256)]
    steps = {entry >> 24: number for number, entry in enumerate(table)}
    wanted, bits = crc ^ 0xFFFFFFFF, []
    for _ in range(4):
        number = steps[wanted >> 24]
        bits.append(number)
        wanted = ((wanted ^ table[number]) << 8) & 0xFFFFFFFF
    have, end = zlib.crc32(content) ^ 0xFFFFFFFF, bytearray()
    for number in reversed(bits):
        end.append((have ^ number) & 0xFF)
        have = table[(have ^ end[-1]) & 0xFF] ^ (have >> 8)
    return content + bytes(end)


def test_a_forged_zip_does_not_take_the_place_of_the_data_set_with_its_checksums(image_zip, cache, tmp_path):
    forged = tmp_path / "forged.zip"
    with zipfile.ZipFile(image_zip) as known, zipfile.ZipFile(forged, "w") as file:
        other = io.BytesIO()
        Image.new("RGB", (32, 32), "red").save(other, "PNG")
        for entry in known.infolist():
            content = known.read(entry)
            if entry.filename == "train/REAL/7.png":
                content = forge(other.getvalue().ljust(len(content) - 4, b"\0"), entry.CRC)
            file.writestr(entry, content)
    with zipfile.ZipFile(image_zip) as known, zipfile.ZipFile(forged) as file:
        assert [(entry.CRC, entry.file_size) for entry in known.infolist()] == [
            (entry.CRC, entry.file_size) for entry in file.infolist()
        ]
    pack(forged, cache)
    with pytest.raises(
        InputError, match=r"zipped\.zip has the names, sizes and checksums of the images in .*, but other"
    ):
        pack(image_zip, cache)


def test_a_change_is_noticed_even_when_size_and_modification_time_stay(image_folder, cache):
    first, second = image_folder / PART / "0.png", image_folder / PART / "1.png"
    packed = pack(image_folder, cache)
    state = first.stat()
    content = bytearray(first.read_bytes())
    first.write_bytes(second.read_bytes()[: len(content)].ljust(len(content), b"\0"))
    os.utime(first, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert first.stat().st_mtime_ns == state.st_mtime_ns
    assert pack(image_folder, cache) != packed


def test_progress_counts_up_to_all_files(image_folder, cache):
    calls = []
    pack(image_folder, cache, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(40, 50), (50, 50)]


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [(mode, "jpg") for mode in ("RGB", "L", "CMYK")]
    + [(mode, "png") for mode in ("1", "L", "LA", "P", "RGBA")]
    + [("RGB", "gif"), ("RGB", "webp"), ("RGBA", "webp")],
)
def test_every_kind_of_image_becomes_rgb(image_folder, cache, mode, suffix):
    path = image_folder / PART / f"other.{suffix}"
    Image.fromarray(_open_rgb(image_folder / PART / "0.png")).convert(mode).save(path)
    assert np.array_equal(_find_image(pack(image_folder, cache), path.name, image_folder), _open_rgb(path))


def test_sixteen_bits_keep_the_upper_eight(image_folder, cache):
    values = np.arange(1024, dtype=np.uint16).reshape(32, 32) * 64
    Image.fromarray(values).save(image_folder / PART / "deep.png")
    found = _find_image(pack(image_folder, cache), "deep.png", image_folder)
    assert np.array_equal(found[..., 0], values >> 8)


def test_of_an_animation_the_first_frame_counts(image_folder, cache):
    frames = [Image.fromarray(_open_rgb(image_folder / PART / f"{number}.png")) for number in (0, 1)]
    frames[0].save(image_folder / PART / "moving.gif", save_all=True, append_images=frames[1:])
    found = _find_image(pack(image_folder, cache), "moving.gif", image_folder)
    assert np.array_equal(found, _open_rgb(image_folder / PART / "moving.gif"))


@pytest.mark.parametrize("size", [16, 33, 100])
def test_other_sizes_are_resized_as_in_the_paper(image_folder, cache, write_noise, size):
    path = write_noise(image_folder / PART / "other.png", 7, size=size)
    found = _find_image(pack(image_folder, cache), path.name, image_folder)
    assert np.array_equal(found, np.asarray(transforms.Resize((32, 32))(Image.fromarray(_open_rgb(path)))))


def test_an_image_in_both_classes_is_left_out_of_train_altogether(image_folder, cache):
    shutil.copy(image_folder / "train/FAKE/0.png", image_folder / "train/REAL/0.png")
    packed = pack(image_folder, cache)
    assert load_info(packed).duplicates == 2
    assert len(open_full_train(packed, seed=0, max_images=None)) == 38


def test_a_leaked_image_is_not_counted_as_a_duplicate_too(image_folder, cache):
    for target in ("train/FAKE/0.png", "train/FAKE/1.png", "test/REAL/0.png"):
        shutil.copy(image_folder / "test/FAKE/0.png", image_folder / target)
    info = load_info(pack(image_folder, cache))
    assert (info.leaked, info.duplicates) == (2, 0)
    assert info.counts["test"] == {"FAKE": 4, "REAL": 6}


def test_hidden_files_and_other_folders_are_left_alone(image_folder, cache):
    before = pack(image_folder, cache)
    for name in ("README.md", "train/notes.txt", "train/CAT/x.txt", f"{PART}/.DS_Store", f"{PART}/Thumbs.db"):
        (image_folder / name).parent.mkdir(exist_ok=True)
        (image_folder / name).write_text("not an image")
    (image_folder / "__MACOSX" / PART).mkdir(parents=True)
    (image_folder / "__MACOSX" / PART / "._0.png").write_text("not an image")
    zipped = shutil.make_archive(str(cache / "zipped"), "zip", image_folder)
    assert pack(image_folder, cache) == pack(Path(zipped), cache) == before


def _break_jpeg(path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, "jpeg")
    path.write_bytes(buffer.getvalue()[:-40])


BAD = {
    "text": lambda path: path.write_text("not an image"),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": _break_jpeg,
    "ppm": lambda path: Image.new("RGB", (32, 32)).save(path, "ppm"),
    "fifo": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "socket": lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
    "broken link": lambda path: path.symlink_to("/nowhere/gone.png"),
    "link to itself": lambda path: path.symlink_to(path.name),
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the socket
@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_is_not_an_image_stops_the_packing_or_is_skipped(image_folder, cache, kind, monkeypatch):
    monkeypatch.chdir(image_folder / PART)  # a socket's path is short
    BAD[kind](Path("bad.jpg"))
    regular = (image_folder / PART / "bad.jpg").is_file()
    reason = "is not a sound JPEG, PNG, GIF, WebP, BMP or TIFF image" if regular else "is not a file"
    sentence = rf"{image_folder}: {PART}/bad\.jpg {reason}: remove it"
    with pytest.raises(InputError, match=sentence):
        pack(image_folder, cache)
    assert not list(cache.glob("pack*"))
    assert read_images(image_folder).bad == [f"{PART}/bad.jpg"]
    info = load_info(pack(image_folder, cache, on_bad_image="skip"))
    assert (info.skipped, info.reasons) == ([f"{PART}/bad.jpg"], [reason])
    assert info.counts["train"] == {"FAKE": 14, "REAL": 26}
    with pytest.raises(InputError, match=sentence):
        pack(image_folder, cache)


def test_only_two_chunks_for_each_thread_are_decoded_ahead_and_their_order_stays(image_folder, monkeypatch):
    chunks_started = []

    class Pool(ThreadPoolExecutor):
        def submit(self, *given):
            chunks_started.append(given)
            return super().submit(*given)

    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.setattr("trainables.decode.ThreadPoolExecutor", Pool)
    with open_source(image_folder) as source:
        members = source.measure(read_layout(source).files)
        batches = decode_chunks(source, [[member] for member in members], "stop", None, 32)
        names = []
        for num_taken, batch in enumerate(batches, start=1):
            assert len(chunks_started) <= num_taken + 2 * 5
            names += batch.names
    assert names == [member.name for member in members]
    assert len(chunks_started) == len(members) == 50


def test_a_png_with_one_flipped_byte_is_a_bad_image_and_no_crash(image_folder, cache):
    sound = (image_folder / PART / "0.png").read_bytes()
    for position in range(8, len(sound), len(sound) // 50):
        damaged = bytearray(sound)
        damaged[position] ^= 0x55
        (image_folder / PART / f"bad{position}.png").write_bytes(damaged)
    info = load_info(pack(image_folder, cache, on_bad_image="skip"))
    assert len(info.skipped) == len(range(8, len(sound), len(sound) // 50))
    assert info.counts["train"]["REAL"] == 26


def test_a_class_of_which_every_file_is_skipped_is_refused(image_folder, cache):
    for path in (image_folder / "test/FAKE").iterdir():
        path.write_text("not an image")
    with pytest.raises(InputError, match="only files that are not images in test/FAKE"):
        pack(image_folder, cache, on_bad_image="skip")


@pytest.mark.parametrize("missing", ["train", "test", "train/FAKE", "test/REAL"])
@pytest.mark.parametrize("emptied", [False, True])
def test_a_missing_or_empty_split_or_class_is_named(image_folder, cache, missing, emptied):
    shutil.rmtree(image_folder / missing)
    if emptied:
        (image_folder / missing).mkdir()
    zipped = shutil.make_archive(str(image_folder.parent / "lacking"), "zip", image_folder)
    for source in (image_folder, Path(zipped)):
        with pytest.raises(InputError, match=f"has no images in .*{missing}"):
            pack(source, cache)


def test_a_path_that_does_not_exist_is_named(tmp_path, cache):
    with pytest.raises(InputError, match=r"nowhere\.zip does not exist"):
        pack(tmp_path / "nowhere.zip", cache)
    assert not cache.exists()


def test_a_file_that_is_no_zip_is_refused(tmp_path, cache):
    (tmp_path / "images.tar").write_bytes(b"\0" * 1000)
    with pytest.raises(InputError, match=r"images\.tar is neither a folder nor a zip"):
        pack(tmp_path / "images.tar", cache)


def test_a_truncated_zip_is_corrupt(image_zip, cache):
    image_zip.write_bytes(image_zip.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"zipped\.zip is a corrupt zip .*: fetch it again"):
        pack(image_zip, cache)


@pytest.mark.parametrize("offset", [2**64 - 1, 2**63])
def test_a_zip_with_an_offset_that_no_file_has_is_corrupt(image_zip, cache, offset, monkeypatch):
    """The offsets of a ZIP64 have 64 bits, more than a position in a file."""
    read = zipfile.ZipFile._RealGetContents

    def alter(file):
        read(file)
        for entry in file.infolist():
            entry.header_offset = offset

    monkeypatch.setattr(zipfile.ZipFile, "_RealGetContents", alter)
    with pytest.raises(InputError, match=r"zipped\.zip is corrupt at .*: fetch it again"):
        pack(image_zip, cache)


def test_a_zip_with_a_negative_offset_is_corrupt(image_zip, cache, monkeypatch):
    read = zipfile.ZipFile._RealGetContents

    def alter(file):
        read(file)
        for entry in file.infolist():
            entry.header_offset = -1

    monkeypatch.setattr(zipfile.ZipFile, "_RealGetContents", alter)
    with pytest.raises(InputError, match=r"zipped\.zip is corrupt at .*: fetch it again"):
        pack(image_zip, cache)


@pytest.mark.parametrize("on_bad_image", ["stop", "skip"])
def test_a_zip_with_an_altered_byte_is_corrupt_at_that_image(image_zip, cache, on_bad_image):
    content = bytearray(image_zip.read_bytes())
    content[content.index(b"train/REAL/7.png") + 200] ^= 1
    image_zip.write_bytes(content)
    with pytest.raises(InputError, match=r"zipped\.zip is corrupt at train/REAL/7\.png"):
        pack(image_zip, cache, on_bad_image=on_bad_image)


@pytest.mark.parametrize(
    "name", ["/etc/x.png", "../x.png", "train/REAL/../../../x.png", "C:/x.png", r"train\REAL\x.png", r"..\x.png"]
)
def test_a_zip_member_that_leaves_the_folder_is_refused(image_zip, cache, name):
    with zipfile.ZipFile(image_zip, "a") as file:
        file.writestr(zipfile.ZipInfo(name), b"x")
    with pytest.raises(InputError, match="leaves the folder or has a backslash") as caught:
        pack(image_zip, cache)
    assert repr(name) in str(caught.value)


def test_a_symbolic_link_in_a_zip_is_refused(image_zip, cache):
    link = zipfile.ZipInfo("train/REAL/link.png")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(image_zip, "a") as file:
        file.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match=r"'train/REAL/link\.png' is a symbolic link"):
        pack(image_zip, cache)


def test_an_encrypted_zip_is_refused(image_zip, cache):
    content = bytearray(image_zip.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    image_zip.write_bytes(content)
    with pytest.raises(InputError, match="is encrypted"):
        pack(image_zip, cache)


def test_two_members_of_one_name_in_a_zip_are_refused_and_named(image_zip, cache):
    with zipfile.ZipFile(image_zip, "a") as file:
        file.writestr("./train/REAL/7.png", b"x")
    with pytest.raises(InputError, match=r"'\./train/REAL/7\.png' is there twice"):
        pack(image_zip, cache)


def test_members_of_a_zip_that_share_bytes_are_refused(image_zip, cache):
    with zipfile.ZipFile(image_zip, "a") as file:
        known = file.getinfo("train/REAL/7.png")
        again = copy.copy(known)
        again.filename = again.orig_filename = "train/REAL/again.png"
        file.filelist.append(again)
        file._didModify = True
    with pytest.raises(InputError, match=r"'train/REAL/again\.png' overlaps another"):
        pack(image_zip, cache)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_that_python_inflates_without_a_limit_is_refused(image_zip, cache, method):
    with zipfile.ZipFile(image_zip, "a") as file:
        file.writestr("train/REAL/x.png", b"x", method)
    with pytest.raises(InputError, match=r"'train/REAL/x\.png' is compressed by another method than deflate"):
        pack(image_zip, cache)


def test_a_source_that_is_a_fifo_is_refused(tmp_path, cache):
    for name in ("pipe", "pipe.zip"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(InputError, match=f"{name} is neither a folder nor a zip"):
            pack(tmp_path / name, cache)


def test_a_linked_folder_is_packed_and_a_loop_is_not_walked_twice(image_folder, cache, write_noise, tmp_path):
    before = pack(image_folder, cache)
    (image_folder / PART / "self").symlink_to(".")
    (image_folder / PART / "up").symlink_to(image_folder / "train")
    looped = load_info(pack(image_folder, cache))
    assert looped.counts["train"] == {"FAKE": 14, "REAL": 26 + 14}  # those of train/FAKE are below "up" too
    (image_folder / PART / "up").unlink()
    assert pack(image_folder, cache) == before
    inner = write_noise(tmp_path / "elsewhere/deep/a.png", 77)
    (image_folder / PART / "more").symlink_to(tmp_path / "elsewhere")
    packed = pack(image_folder, cache)
    assert load_info(packed).counts["train"] == {"FAKE": 14, "REAL": 27}
    write_noise(inner, 78)
    assert pack(image_folder, cache) != packed


def test_a_skipped_file_whose_name_is_no_text_breaks_nothing(image_folder, cache):
    name = os.fsdecode(b"\xff\xfe.png")
    (image_folder / PART / name).write_bytes(b"no image")
    info = load_info(pack(image_folder, cache, on_bad_image="skip"))
    assert info.skipped == [f"{PART}/{name}"]
    assert read_images(image_folder).bad == [f"{PART}/{name}"]
    with pytest.raises(InputError, match="is not a sound JPEG"):
        pack(image_folder, cache)


def test_a_cache_that_is_a_file_is_named(image_folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=f"cannot pack {image_folder} into {tmp_path / 'file'}"):
        pack(image_folder, tmp_path / "file")


def test_a_pack_without_its_pack_json_is_not_used_again(image_folder, cache):
    packed = pack(image_folder, cache)
    (packed / "pack.json").unlink()
    with pytest.raises(InputError, match=f"{packed} is not a complete pack .*: delete the folder"):
        pack(image_folder, cache)
    shutil.rmtree(packed)
    verify(pack(image_folder, cache))


def test_of_several_packing_at_once_one_does_the_work(image_folder, cache):
    packs, calls = [], []
    start = threading.Barrier(4)

    def run() -> None:
        start.wait()
        packs.append(pack(image_folder, cache, progress=lambda *call: calls.append(call)))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(packs) == 4
    assert len(set(packs)) == 1
    assert calls == [(40, 50), (50, 50)]


def test_a_packing_that_fails_leaves_nothing_behind(image_folder, cache):
    def fail(done: int, total: int) -> None:
        raise RuntimeError(f"{done} of {total}")

    with pytest.raises(RuntimeError, match="40 of 50"):
        pack(image_folder, cache, progress=fail)
    assert [path.name for path in cache.iterdir()] == ["lock"]


def test_a_killed_packing_is_cleaned_up_by_the_next(image_folder, cache):
    script = (
        "import os, signal, sys; from pathlib import Path; from trainables.pack import pack\n"
        "pack(Path(sys.argv[1]), Path(sys.argv[2]), progress=lambda *_: os.kill(os.getpid(), signal.SIGKILL))"
    )
    killed = subprocess.run([sys.executable, "-c", script, image_folder, cache], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert sorted(path.name for path in cache.iterdir()) == ["lock", "packing"]
    packed = pack(image_folder, cache)
    verify(packed)
    assert not (cache / "packing").exists()


def test_a_full_disk_is_one_sentence_with_the_size_that_is_needed(image_folder, run_on_small_disk):
    script = (
        "import sys; from pathlib import Path; from trainables.pack import pack\n"
        "try: pack(Path(sys.argv[2]), Path(sys.argv[1]))\n"
        "except ValueError as error: print(str(error).replace(sys.argv[1], 'DISK'))"
    )
    message = "no space left in DISK: free 1 MB there, or set another data.cache\n"
    assert run_on_small_disk(script, "64k", image_folder) == message


def _extract(target: Path, count: int) -> Path:
    """The first images of each class of the real data."""
    with zipfile.ZipFile(CIFAKE) as file:
        for part in ("train/FAKE", "train/REAL", "test/FAKE", "test/REAL"):
            for name in [name for name in file.namelist() if name.startswith(f"{part}/")][:count]:
                file.extract(name, target)
    return target


@needs_cifake
def test_real_images_are_packed_as_pillow_decodes_them(tmp_path, cache):
    if not zipfile.is_zipfile(CIFAKE):
        pytest.skip("CIFAKE_PATH is a folder")
    source = _extract(tmp_path / "some", 60)
    packed = pack(source, cache)
    files = sorted((source / "test/FAKE").iterdir())
    expected = np.stack([_open_rgb(file) for file in files])
    assert np.array_equal(open_test(packed).images[: len(files)].numpy(), expected)


@needs_cifake
@pytest.mark.slow
def test_all_of_cifake_is_packed_with_its_known_repeats(cache):
    info = load_info(pack(Path(CIFAKE), cache))
    assert info.counts["train"] == {"FAKE": 50_000, "REAL": 50_000}
    assert info.duplicates == 920
    assert info.leaked in (158, 378)
    assert info.skipped == []
