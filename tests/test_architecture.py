"""The shape of the code, kept by a machine; the layers are import-linter's (`make check`)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(path for package in ("search", "trainables") for path in (ROOT / package).rglob("*.py"))

DOORS = {
    "wandb": {"search/tracking/tracker.py", "search/tracking/runs.py", "search/tracking/gallery.py", "search/sync.py"},
    "yaml": {"search/document.py"},
    "pydantic": {"search/config.py"},
    "optuna": {
        f"search/{name}.py"
        for name in ("space", "sampler", "journal", "entry", "storage", "report/history", "report/charts", "dashboard")
    },
    "optuna_dashboard": {"search/dashboard.py"},
    "tensorboardX": {"search/tracking/tensorboard.py"},
    "pyarrow": {"search/view/table.py"},
    "pynvml": {"search/view/usage.py"},
    "sqlalchemy": {"search/storage.py"},
    "ray": {
        f"search/{name}.py"
        for name in (
            *("tuner", "tune_changes", "cluster/nodes", "cluster/preflight"),
            *("cluster/delivery", "cluster/losses", "cluster/preference", "cluster/private"),
            *("cluster/liveness", "evaluation/retrainer"),
        )
    },
    "fsspec": {"search/cluster/store.py"},
    "matplotlib": {"search/report/figures.py"},
    "plotly": {"search/report/charts.py"},
    "jinja2": {"search/report/page.py"},
    "torchmetrics": {"search/evaluation/statistics.py"},
    "pandas": {"search/evaluation/comparison.py"},
    "safetensors": {"search/evaluation/model_file.py"},
    "PIL": {"trainables/pixels.py", "search/report/page.py", "search/sample.py", "search/audit/sheet.py"},
    "onnx": {"search/export.py"},
    "onnxruntime": {"search/export.py"},
}
"""Which files may import a library."""


def list_imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def name(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("library", sorted(DOORS))
def test_each_library_has_its_doors(library):
    assert {name(path) for path in MODULES if library in list_imports(path)} <= DOORS[library]


def test_trainables_import_only_torch_numpy_pillow_and_the_standard_library():
    import sys

    allowed = {"torch", "torchvision", "numpy", "PIL", "trainables"} | set(sys.stdlib_module_names)
    for path in MODULES:
        if path.is_relative_to(ROOT / "trainables"):
            assert set(list_imports(path)) <= allowed, name(path)


def test_only_a_retraining_opens_the_test_split():
    opens = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.id] if isinstance(node, ast.Name) else [node.attr] if isinstance(node, ast.Attribute) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            if "open_test" in names:
                opens.add(name(path))
    assert opens == {"search/evaluation/worker.py"}


def test_what_the_audit_reads_stays_in_the_audit():
    audit = {"search/data.py", "search/audit/findings.py", "search/audit/sheet.py"}
    readers = {path for path in MODULES for node in ast.walk(ast.parse(path.read_text())) if imports_images(node)}
    assert {name(path) for path in readers} == audit


def imports_images(node):
    if isinstance(node, ast.Import):
        return any(alias.name == "search.audit.images" for alias in node.names)
    if not isinstance(node, ast.ImportFrom):
        return False
    names = {f"{node.module}.{alias.name}" for alias in node.names}
    return node.module == "search.audit.images" or "search.audit.images" in names


def test_no_module_outgrows_what_one_sitting_reads():
    lengths = {name(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {path: length for path, length in lengths.items() if length > 450} == {}


def test_no_module_has_a_name_that_says_nothing():
    assert not {path.stem for path in MODULES} & {"utils", "util", "common", "helpers", "misc", "base", "core"}
