"""Checks what a study promises of its files on every disk that a power cut may leave.

The functions that write a study (writing.py) run under strace. Their calls are replayed on a model of a disk that keeps
only what was synced: of a file the content at its last fsync, of a folder the names at its last fsync, and of all that
came later anything or nothing. The promises are checked after every call.
"""

import ast
import hashlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from search.config.yaml import read_yaml
from search.evaluation.model_file import check_files, load_record
from search.evaluation.openings import complete_entries, describe_openings
from search.record.journal import Journal
from trainables import checkpoint
from trainables.pack_info import FORMAT, PACK_JSON, verify

CALLS = (
    "openat,write,pwrite64,ftruncate,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir,symlink,"
    "symlinkat,fsync,fdatasync,lseek,close,truncate,creat,open,writev,pwritev,sendfile,copy_file_range"
)
ROOT = Path(__file__).parent.parent


@dataclass(eq=False)
class File:
    """A file, or a link: what it holds now, and what it held when it was synced last; None if it never was."""

    content: bytes = b""
    synced: bytes | None = None
    link: str | None = None

    def sync(self):
        self.synced = self.content

    def list_remains(self):
        """Return what may be left of it: what was synced, that with holes or half of what came later, or all."""
        if self.link is not None or self.content == self.synced:
            return [self.content]
        synced = self.synced or b""
        found = [self.content, synced]
        if self.content.startswith(synced):
            new = len(self.content) - len(synced)
            found += [synced + bytes(new), self.content[: len(synced) + new // 2]]
        else:
            found += [b"", bytes(len(self.content))]
        return list(dict.fromkeys(found))


@dataclass(eq=False)
class Folder:
    """A folder: the names in it now, those that were synced, and every change since in its order."""

    names: dict = field(default_factory=dict)
    synced: dict = field(default_factory=dict)
    changes: list = field(default_factory=list)

    def change(self, changes):
        """Change some names at once, as a rename does."""
        self.changes.append(dict(changes))
        self.names = apply(self.names, [changes])

    def sync(self):
        self.synced, self.changes = dict(self.names), []

    def list_remains(self):
        """Return the names that may be left: the first changes, all but one of them, one of them alone."""
        numbers = range(len(self.changes))
        chosen = [self.changes[:count] for count in range(len(self.changes) + 1)]
        chosen += [self.changes[:number] + self.changes[number + 1 :] for number in numbers]
        chosen += [[self.changes[number]] for number in numbers]
        return [apply(self.synced, each) for each in chosen]


def apply(names, changes):
    names = dict(names)
    for each in changes:
        for name, node in each.items():
            names.pop(name, None)
            if node is not None:
                names[name] = node
    return names


class Disk:
    """Files and folders below a root, changed by the calls of a process."""

    def __init__(self, root):
        self.root, self.top, self.open = root, Folder(), {}

    def find(self, path):
        """Return the folder of a path and its name there; None outside of the root."""
        if path == self.root:
            return self.top, "."
        if not path.startswith(f"{self.root}/"):
            return None
        *folders, name = path.removeprefix(f"{self.root}/").split("/")
        folder = self.top
        for each in folders:
            folder = folder.names[each]
        return folder, name

    def do(self, call):
        """Apply one successful call."""
        if call.number is not None:
            self._change_open(call)
            return
        place = self.find(call.paths[-1 if call.name.startswith("symlink") else 0])
        if call.name == "openat":
            self.open.pop(call.result, None)
        if place is None:
            return
        folder, name = place
        if call.name == "openat":
            self._open(folder, name, call)
        elif call.name.startswith("mkdir"):
            folder.change({name: Folder()})
        elif call.name.startswith("symlink"):
            folder.change({name: File(link=call.paths[0])})
        elif call.name.startswith(("unlink", "rmdir")):
            folder.change({name: None})
        elif call.name.startswith(("rename", "link")):
            self._move(folder, name, self.find(call.paths[1]), keep=call.name.startswith("link"))
        else:
            raise AssertionError(f"the model of a disk knows no {call.name}")

    def _open(self, folder, name, call):
        if name not in folder.names and "O_CREAT" in call.rest:
            folder.change({name: File()})
        node = self.top if name == "." else folder.names[name]
        if "O_TRUNC" in call.rest:
            node.content = b""
        self.open[call.result] = [node, len(node.content) if "O_APPEND" in call.rest else 0]

    def _move(self, folder, name, target, *, keep):
        node = folder.names[name]
        removed = {} if keep else {name: None}
        if folder is target[0]:
            folder.change({**removed, target[1]: node})
        else:
            target[0].change({target[1]: node})
            folder.change(removed)

    def _change_open(self, call):
        if call.number not in self.open:
            return
        node, position = self.open[call.number]
        last = int(call.rest.rpartition(",")[2] or 0) if call.name in ("pwrite64", "ftruncate") else None
        if call.name == "close":
            del self.open[call.number]
        elif call.name in ("fsync", "fdatasync"):
            node.sync()
        elif call.name == "lseek":
            self.open[call.number][1] = call.result
        elif call.name == "ftruncate":
            node.content = node.content[:last].ljust(last, b"\0")
        elif call.name in ("write", "pwrite64"):
            start, end = (last or 0, position) if call.name == "pwrite64" else (position, position + call.result)
            before, after = node.content[:start].ljust(start, b"\0"), node.content[start + call.result :]
            node.content = before + call.content[: call.result] + after
            self.open[call.number][1] = end
        else:
            raise AssertionError(f"the model of a disk knows no {call.name}")

    def list_remains(self):
        """Yield, as bytes by path, what a power cut may leave now."""
        nodes = list(self._walk(self.top, set()))
        folders = [node for node in nodes if isinstance(node, Folder) and node.changes]
        files = [node for node in nodes if isinstance(node, File) and len(node.list_remains()) > 1]
        for is_old in (False, True):
            contents = {node: node.synced or b"" for node in files} if is_old else {}
            yield self._read({}, contents)
            yield self._read({node: node.synced for node in folders}, contents)
            for folder in folders:
                for others in ({}, {node: node.synced for node in folders}):
                    for names in folder.list_remains():
                        yield self._read({**others, folder: names}, contents)
        for file in files:
            for content in file.list_remains():
                yield self._read({}, {file: content})

    def _walk(self, folder, seen):
        """Yield every node that has a name now, or may have one again."""
        if folder in seen:
            return
        seen.add(folder)
        yield folder
        for names in (folder.names, folder.synced, *folder.changes):
            for node in names.values():
                if isinstance(node, Folder):
                    yield from self._walk(node, seen)
                elif node is not None and node not in seen:
                    seen.add(node)
                    yield node

    def _read(self, chosen, contents, folder=None, above=""):
        found = {}
        folder = folder or self.top
        for name, node in chosen.get(folder, folder.names).items():
            if isinstance(node, Folder):
                found[f"{above}{name}/"] = b""
                found |= self._read(chosen, contents, node, f"{above}{name}/")
            else:
                found[above + name] = node.link.encode() if node.link else contents.get(node, node.content)
        return found


@dataclass(frozen=True)
class Call:
    """A successful call of the traced process."""

    name: str
    number: int | None
    """Of the open file that it is about, if it is about one."""
    paths: tuple
    content: bytes
    rest: str
    """Its arguments behind the last text."""
    result: int
    where: str
    """Path of the open file."""


LINE = re.compile(r"(\w+)\((.*)\) += (\d+)(?:<[^\"]*>)?$")
TEXT = re.compile(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"((?:[^"\\]|\\.)*)"')
ABOUT_OPEN = ("write", "pwrite64", "ftruncate", "fsync", "fdatasync", "lseek", "close")


def read_trace(path):
    """Return the successful calls of a trace."""
    calls = []
    for line in path.read_text().splitlines():
        if (found := LINE.match(line)) is None:
            continue
        name, arguments, result = found.groups()
        texts = [(base, ast.literal_eval(f'b"{text}"')) for base, text in TEXT.findall(arguments)]
        rest = arguments[arguments.rindex('"') + 1 :] if texts else arguments
        number, where, paths, content = None, "", (), b""
        if name in ABOUT_OPEN:
            number, where = re.match(r"(\d+)<([^>]*)>", arguments).groups()
            content = texts[0][1] if texts else b""
        else:
            paths = tuple(str(Path(base, text.decode())) if base else text.decode() for base, text in texts)
        calls.append(Call(name, None if number is None else int(number), paths, content, rest, int(result), where))
    return calls


class Promises:
    """What was promised so far, and what of it does not hold."""

    BASE = "deep/results/tiny/"

    def __init__(self, scratch, final_journal):
        self.scratch, self.final_journal, self.known = scratch, final_journal, {}
        self.records, self.num_records = [], 0
        self.journal_bytes = self.num_opened = 0
        self.saved, self.models = {}, {}
        self.broken = {}

    def mark(self, line):
        """Take in what the driver says that is promised from now on."""
        match line.split():
            case ["record", sha256]:
                self.num_records = 1 + [hashlib.sha256(each).hexdigest() for each in self.records].index(sha256)
            case ["journal", size]:
                self.journal_bytes = int(size)
            case ["opened", count]:
                self.num_opened = int(count)
            case ["saved", name, epoch]:
                self.saved[name] = int(epoch)
            case ["deleted", name]:
                self.saved.pop(name, None)
            case ["replacing", label]:
                self.models.pop(label, None)
            case ["model", label, sha256]:
                self.models[label] = sha256

    def watch(self, now):
        """Take in what is there without a power cut: every study.yaml that ever was."""
        record = now.get(f"{self.BASE}study.yaml")
        if record is not None and record not in self.records[-1:]:
            self.records.append(record)

    def check(self, left, when):
        """Check what a power cut left."""
        for fault in self._list_faults(left):
            self.broken.setdefault(fault, when)

    def _list_faults(self, left):
        study = {path.removeprefix(self.BASE): content for path, content in left.items() if path.startswith(self.BASE)}
        record, journal = study.get("study.yaml"), study.get("study.journal")
        if (self.num_records or study) and record not in self.records[max(self.num_records - 1, 0) :]:
            yield "study.yaml is neither the old nor the new one"
        elif record is not None:
            yield from self._check_openings(record, journal)
        if not (journal or b"").startswith(self.final_journal[: self.journal_bytes]):
            yield "the journal lacks a line that was acknowledged"
        elif journal is not None and self._read_openings(journal) is None:
            yield "the journal is refused"
        models = {path: content for path, content in study.items() if path.startswith("models/")}
        yield from self._remember(self._check_models, models)
        for label, sha256 in self.models.items():
            if hashlib.sha256(models.get(f"models/{label}.json", b"")).hexdigest() != sha256:
                yield "a model that was saved is not there"
        for name, epoch in self.saved.items():
            files = {path: content for path, content in study.items() if path.startswith(f"checkpoints/{name}")}
            if self._remember(self._load_epoch, files, name) < epoch:
                yield "a checkpoint that was saved is not there"
        packs = {path: content for path, content in left.items() if path.startswith(f"cache/pack{FORMAT}-")}
        yield from self._remember(self._check_pack, packs)

    def _remember(self, function, files, *arguments):
        """Return what a function says of files that are written for it; the same files are not asked about twice."""
        key = (function.__name__, frozenset(files.items()))
        if key not in self.known:
            folder = self.scratch / str(len(self.known))
            for path, content in files.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                if not path.endswith("/"):
                    (folder / path).write_bytes(content)
                else:
                    (folder / path).mkdir(exist_ok=True)
            self.known[key] = function(folder, *arguments)
            shutil.rmtree(folder, ignore_errors=True)
        return self.known[key]

    def _check_openings(self, record, journal):
        evaluations = self._remember(_read_evaluations, {"study.yaml": record})
        openings = self._read_openings(journal) or []
        if sum(bool(entry["opened"]) for entry in evaluations) < self.num_opened or len(openings) < self.num_opened:
            yield "an opening of the test split is not recorded"
        evaluations = [dict(entry) for entry in evaluations]
        complete_entries(evaluations, openings)
        if any("removed" in note or "changed" in note for note in describe_openings(evaluations, openings)):
            yield "an opening looks as if it had been removed"

    def _read_openings(self, journal):
        return self._remember(_read_openings, {"study.journal": journal}) if journal is not None else []

    @staticmethod
    def _check_models(folder):
        models = folder / "models"
        try:
            for path in models.glob("*.json"):
                check_files(models, load_record(path))
        except ValueError:
            return ["a model's record is there without its files"]
        return []

    @staticmethod
    def _load_epoch(folder, name):
        state = checkpoint.load(folder / "checkpoints" / name)
        return 0 if state is None else state["epoch"]

    @staticmethod
    def _check_pack(folder):
        try:
            for path in folder.glob("cache/*"):
                assert (path / PACK_JSON).exists()
                verify(path)
        except (ValueError, AssertionError):
            return ["what has a pack's name is no pack"]
        return []


def _read_evaluations(folder):
    return read_yaml(folder / "study.yaml")["evaluations"]


def _read_openings(folder):
    """Return the openings of a journal, opened as a resumed search opens it; None if it is refused."""
    try:
        return Journal(folder / "study.journal", "tiny", note=lambda _: None).list_openings()
    except ValueError:
        return None


def cut_power_everywhere(calls, root, marks, scratch):
    """Return the promises that a power cut after some call breaks, with that call, and the number of states."""
    finished = Disk(root)
    for call in calls:
        finished.do(call)
    promises = Promises(scratch, finished._read({}, {})[f"{Promises.BASE}study.journal"])
    disk, checked = Disk(root), set()
    for number, call in enumerate(calls):
        disk.do(call)
        if call.where == marks and call.name == "write":
            promises.mark(call.content.decode())
            checked.clear()
        elif call.name in ("lseek", "close"):
            continue
        promises.watch(disk._read({}, {}))
        for left in disk.list_remains():
            if (key := frozenset(left.items())) not in checked:
                checked.add(key)
                promises.check(left, f"call {number}: {call.name} {call.paths or call.where}")
    return promises.broken


@pytest.fixture(scope="module")
def traced(tmp_path_factory, packed):
    """The calls of the driver, the root of its files, and the file of its marks."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    folder = tmp_path_factory.mktemp("traced")
    root, trace, marks = folder / "root", folder / "trace", folder / "marks"
    root.mkdir()
    source = json.loads((packed / PACK_JSON).read_text())["source"]
    command = ["strace", "-y", "-s", "100000000", "-e", "signal=none", "-e", f"trace={CALLS}", "-o", str(trace)]
    done = subprocess.run(
        [*command, sys.executable, "-m", "tests.writing", str(root), source, str(marks)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return read_trace(trace), str(root), str(marks)


def test_the_model_of_a_disk_ends_as_the_disk_did(traced):
    calls, root, _ = traced
    disk = Disk(root)
    for call in calls:
        disk.do(call)
    there = {path.relative_to(root).as_posix(): path for path in Path(root).rglob("*")}
    modelled = disk._read({}, {})
    assert {path.rstrip("/") for path in modelled} == set(there)
    for name, path in there.items():
        if path.is_symlink():
            assert modelled[name] == str(path.readlink()).encode()
        elif path.is_file():
            assert modelled[name] == path.read_bytes()


def test_a_power_cut_at_any_point_breaks_no_promise(traced, tmp_path):
    assert cut_power_everywhere(*traced, tmp_path) == {}


@pytest.mark.parametrize(
    ("lost", "promise"),
    [
        (r"/deep/results/\.starting-[^/]*/tiny$", "study.yaml is neither the old nor the new one"),
        (r"/deep/results$", "study.yaml is neither the old nor the new one"),
        (r"/root$", "study.yaml is neither the old nor the new one"),
        (r"/study\.yaml\.partial$", "study.yaml is neither the old nor the new one"),
        (r"/tiny$", "an opening of the test split is not recorded"),
        (r"/tiny$", "the journal lacks a line that was acknowledged"),
        (r"/study\.journal$", "the journal lacks a line that was acknowledged"),
        (r"/tiny$", "a model that was saved is not there"),
        (r"/models$", "a model's record is there without its files"),
        (r"/cnn-seed0\.safetensors\.partial$", "a model's record is there without its files"),
        (r"/cnn-seed0\.json\.partial$", "a model that was saved is not there"),
        (r"/trial-\d\.ckpt\.partial$", "a checkpoint that was saved is not there"),
        (r"/checkpoints$", "a checkpoint that was saved is not there"),
        (r"/packing/train\.images$", "what has a pack's name is no pack"),
        (r"/packing$", "what has a pack's name is no pack"),
    ],
)
def test_without_one_of_the_syncs_a_promise_breaks(traced, tmp_path, lost, promise):
    calls, root, marks = traced
    kept = [call for call in calls if not (call.name in ("fsync", "fdatasync") and re.search(lost, call.where))]
    assert len(kept) < len(calls), "there is no such call"
    assert promise in cut_power_everywhere(kept, root, marks, tmp_path)
