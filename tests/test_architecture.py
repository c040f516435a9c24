"""The shape of the code, kept by a machine; the layers are import-linter's (`make check`)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(path for package in ("search", "trainables") for path in (ROOT / package).rglob("*.py"))

DOORS = {
    "wandb": {
        "search/listeners/wandb/tracker.py",
        "search/listeners/wandb/runs.py",
        "search/listeners/wandb/gallery.py",
        "search/commands/sync.py",
    },
    "yaml": {"search/config/yaml.py"},
    "pydantic": {"search/config/load.py", "search/config/schema.py"},
    "optuna": {
        "search/config/space.py",
        *(f"search/samplers/{name}.py" for name in ("history", "qmc", "sampler", "tpe")),
        *(f"search/record/{name}.py" for name in ("journal", "trial_reader", "storage", "database", "journal_file")),
        "search/report/history.py",
        "search/report/charts.py",
        "search/commands/dashboard.py",
    },
    "optuna_dashboard": {"search/commands/dashboard.py"},
    "tensorboardX": {"search/listeners/tensorboard.py"},
    "pynvml": {"search/listeners/usage.py"},
    "sqlalchemy": {"search/record/database.py"},
    "ray": {
        *(f"search/cluster/{name}.py" for name in ("autoscaler", "checks", "liveness", "nodes", "private")),
        *(f"search/cluster/{name}.py" for name in ("runner", "transfer", "tune_patches", "tune_views")),
    },
    "fsspec": {"search/record/object_store.py"},
    "matplotlib": {"search/report/figures.py"},
    "plotly": {"search/report/charts.py"},
    "jinja2": {"search/report/page.py"},
    "torchmetrics": {"search/evaluation/statistics.py"},
    "pandas": {"search/evaluation/comparison.py", "search/report/trials.py"},
    "safetensors": {"search/evaluation/model_file.py"},
    "PIL": {
        "trainables/pixels.py",
        "search/report/page.py",
        "search/datasets/sample.py",
        "search/datasets/audit/sheet.py",
    },
    "onnx": {"search/commands/export.py"},
    "onnxruntime": {"search/commands/export.py"},
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
    assert opens == {"search/evaluation/test.py"}


def test_what_the_audit_reads_stays_in_the_audit():
    audit = {"search/commands/audit.py", "search/datasets/audit/findings.py", "search/datasets/audit/sheet.py"}
    readers = {path for path in MODULES for node in ast.walk(ast.parse(path.read_text())) if imports_images(node)}
    assert {name(path) for path in readers} == audit


def imports_images(node):
    if isinstance(node, ast.Import):
        return any(alias.name == "search.datasets.audit.images" for alias in node.names)
    if not isinstance(node, ast.ImportFrom):
        return False
    names = {f"{node.module}.{alias.name}" for alias in node.names}
    return node.module == "search.datasets.audit.images" or "search.datasets.audit.images" in names


def test_no_module_outgrows_what_one_sitting_reads():
    lengths = {name(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {path: length for path, length in lengths.items() if length > 450} == {}


def test_no_module_has_a_name_that_says_nothing():
    assert not {path.stem for path in MODULES} & {"utils", "util", "common", "helpers", "misc", "base", "core"}
