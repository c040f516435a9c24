import ast
import re
from pathlib import Path

import trainables.errors

ROOT = Path(__file__).parents[2]


def list_errors():
    """Return each exception class of the project with the class it extends."""
    for package in ("search", "trainables"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    for base in node.bases:
                        if isinstance(base, ast.Name) and re.search("Error$|Exception$|^KeyboardInterrupt$", base.id):
                            yield base.id, node.name


def read_tree():
    """Return each class that the docstring draws with the class above it."""
    above = ""
    for line in trainables.errors.__doc__.splitlines():
        if found := re.match(r"\+-- (\w+) ", line):
            yield above, found[1]
        elif re.match(r"\w+$", line):
            above = line


def test_the_tree_names_every_error_of_the_project():
    assert sorted(read_tree()) == sorted(list_errors())
