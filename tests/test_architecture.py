"""The shape of the code, kept by a machine; the layers are import-linter's (`make check`)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NUM_LOADED, NUM_LINES_LOADED = 85, 8_600
"""Most modules, and lines, that `search.run` loads before its first trial. LOG.md has the figures."""
MODULES = sorted(path for package in ("search", "trainables") for path in (ROOT / package).rglob("*.py"))

DOORS = {
    "wandb": {
        "search/listeners/wandb/tracker.py",
        "search/listeners/wandb/runs.py",
        "search/listeners/wandb/gallery.py",
        "search/commands/sync.py",
    },
    "yaml": {"search/config/yaml.py"},
    "pydantic": {f"search/config/{name}.py" for name in ("data", "fields", "load", "schema", "search")},
    "optuna": {
        "search/config/space.py",
        *(
            f"search/samplers/{name}.py"
            for name in ("gp", "history", "own", "points", "qmc", "repeats", "sampler", "tpe")
        ),
        *(
            f"search/record/{name}.py"
            for name in ("facts", "journal", "metric", "trial_reader", "storage", "database", "errors")
        ),
        "search/record/journal_file.py",
        "search/report/history.py",
        "search/report/charts.py",
        "search/commands/dashboard.py",
    },
    "optuna_dashboard": {"search/commands/dashboard.py"},
    "tensorboardX": {"search/listeners/tensorboard.py"},
    "pynvml": {"search/listeners/usage.py"},
    "sqlalchemy": {"search/record/database.py"},
    "ray": {
        *(f"search/cluster/{name}.py" for name in ("autoscaler", "checks", "liveness", "local", "nodes")),
        *(f"search/cluster/{name}.py" for name in ("runner", "transfer", "tune_patches", "tune_adapters")),
    },
    "fsspec": {"search/record/object_store.py"},
    "matplotlib": {"search/report/figures.py", "search/report/overview.py"},
    "plotly": {"search/report/charts.py"},
    "jinja2": {"search/report/page.py"},
    "pandas": {"search/evaluation/comparison.py", "search/report/trials.py"},
    "safetensors": {"search/evaluation/model_file.py", "search/evaluation/further.py", "search/datasets/prepare.py"},
    "PIL": {
        "trainables/pixels.py",
        "search/evaluation/perturbations.py",
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
    assert opens == {"search/evaluation/sealed_test.py"}


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


def test_no_module_has_more_than_260_lines():
    lengths = {name(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {path: length for path, length in lengths.items() if length > 260} == {}


def count_lines(function):
    """Return the lines of a function without its docstring."""
    first = function.body[0]
    has_docstring = ast.get_docstring(function) is not None
    return function.end_lineno - function.lineno + 1 - has_docstring * (first.end_lineno - first.lineno + 1)


def test_no_function_has_more_than_40_lines():
    functions = [
        (name(path), node)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    ]
    assert [(path, node.name) for path, node in functions if count_lines(node) > 40] == []


def test_a_newcomer_sees_at_most_twelve_names_at_the_top_of_the_search():
    names = {path.stem for path in (ROOT / "search").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert len(names - {"__init__", "__main__", "__pycache__"}) <= 12


def list_modules(program):
    """Return the project's modules that a fresh interpreter has loaded after a program, with their lines."""
    program += "; import sys; print(*(n for n in sys.modules if n.partition('.')[0] in ('search', 'trainables')))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    files = [ROOT / each.replace(".", "/") for each in done.stdout.split()]
    return [file / "__init__.py" if file.is_dir() else file.with_suffix(".py") for file in files]


def test_a_search_loads_few_modules_before_its_first_trial():
    files = list_modules("import search.run")
    assert len(files) <= NUM_LOADED
    assert sum(len(file.read_text().splitlines()) for file in files) <= NUM_LINES_LOADED


def test_no_module_has_a_name_that_says_nothing():
    assert not {path.stem for path in MODULES} & {"utils", "util", "common", "helpers", "misc", "base", "core"}
