"""Imports run one way: from the commands down to the libraries, and never in a circle."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "ecgexp"
# From the lowest layer up; a module may import its own layer and those below. The names under which things are kept
# import nothing, so that what measures and what writes may use them as well.
LAYERS = (
    ("__init__", "errors", "extras", "foreign", "text", "paths", "processes", "saved", "tracking.names"),
    ("fast", "metrics", "models", "losses", "statistics", "targets", "datasets"),
    ("config",),
    ("training",),
    ("tracking",),
    ("search",),
    ("reports",),
    ("trials",),
    ("sweeps",),
    ("commands",),
    ("cli", "__main__", "convert_keras", "evaluate", "predict", "report"),
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def imports(path: Path) -> set[str]:
    """Modules of this package that a module imports, wherever in it, but for type checking alone."""
    found = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        waiting.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("ecgexp").lstrip(".") for alias in node.names if "ecgexp" in alias.name}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "ecgexp":
            module = str(node.module).removeprefix("ecgexp").lstrip(".")
            for alias in node.names:
                inner = f"{module}.{alias.name}".lstrip(".")
                found.add(inner if inner in MODULES else module)
    return {name or "__init__" for name in found}


def layer(module: str) -> int:
    return LAYER.get(module, LAYER[module.partition(".")[0]])


def test_every_module_has_a_layer():
    assert {name.partition(".")[0] for name in MODULES} <= LAYER.keys()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_module_imports_from_a_layer_above_its_own(module):
    above = sorted(name for name in imports(MODULES[module]) if layer(name) > layer(module))
    assert not above, f"ecgexp.{module} imports {', '.join(above)}"


def test_no_circle():
    # A package stands for its __init__, which a module inside of it may import names from only if that is no circle.
    graph = {module: imports(path) - {module} for module, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"circle of imports: {' -> '.join(error.args[1])}")
