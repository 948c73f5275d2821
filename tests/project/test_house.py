"""The house: which room may import which, without circles."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

FLOORS = (
    {"data_pipeline", "jaxpu.onednn"},
    {"jaxpu.config"},
    {"jaxpu.core", "jaxpu.parallel", "jaxpu.config_files", "configs"},
    {"jaxpu.estimation", "jaxpu.artifacts", "jaxpu.monitoring", "jaxpu.separation"},
    {"jaxpu.training", "jaxpu.evaluation"},
    {"jaxpu.cli", "benchmarks"},
    {"jaxpu.__main__", "jaxpu.train"},
)
"""From the ground up: a room imports rooms of lower floors alone.  `jaxpu` itself, the lazy facade, is no room."""

ROOM_LIMIT, FUNCTION_LIMIT = 400, 60
"""Lines of a module and of a function, docstrings included."""

PATHS = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("jaxpu", "data_pipeline", "configs", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def imports(module: str) -> Iterator[str]:
    """The project's modules that a module imports, at its top or inside functions, but not for type checkers alone."""
    package = module if PATHS[module].name == "__init__.py" else module.rpartition(".")[0]

    def nodes(tree: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(tree):
            if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
                yield child
                yield from nodes(child)

    for node in nodes(ast.parse(PATHS[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            outer = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(part for part in (outer, node.module) if part)
            names = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in PATHS else base for alias in node.names]
        else:
            continue
        yield from (name for name in names if name in PATHS and name != module)


def room(module: str) -> str:
    """A module directly in `jaxpu`, a folder below it, or another top-level folder."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "jaxpu" and len(parts) > 1 else parts[0]


def test_no_module_imports_itself_through_others() -> None:
    graphlib.TopologicalSorter({module: set(imports(module)) for module in PATHS}).prepare()  # CycleError names the circle


def test_no_import_climbs() -> None:
    floor_of = {name: floor for floor, rooms in enumerate(FLOORS, 1) for name in rooms}
    climbing = [
        f"{module} (floor {floor_of[room(module)]}) imports {other} (floor {floor_of[room(other)]})"
        for module in PATHS
        if module != "jaxpu"
        for other in imports(module)
        if other != "jaxpu" and room(other) != room(module) and floor_of[room(other)] >= floor_of[room(module)]
    ]
    assert not climbing


def test_modules_and_functions_can_be_held_in_mind() -> None:
    too_long = []
    for module, path in PATHS.items():
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > ROOM_LIMIT:
            too_long.append(f"{module}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                length = node.end_lineno - node.lineno + 1
                if length > FUNCTION_LIMIT:
                    too_long.append(f"{module}.{node.name}: {length} lines")
    assert not too_long
