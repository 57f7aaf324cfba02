"""Imports point one way: who reads a module needs only what lies below it. docs/code.md shows the order."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LEVELS = (
    {"errors", "seeds", "machine", "recipes", "text", "__init__"},
    {"streams", "console", "plots", "importing", "arguments"},
    {"config"},
    {"data", "models"},
    {"checkpoint"},
    {"distributed"},
    {"commandline"},
    {"training"},
    {"runs"},
    {"train", "evaluate", "study", "sweep", "report", "doctor", "export"},
    {"cli"},
    {"__main__"},
)
"""Parts of the package, from the bottom. A part may import itself and those below it; a command no other command."""
LEVEL_OF = {part: level for level, parts in enumerate(LEVELS) for part in parts}
COMMANDS = LEVELS[-3]
BELOW_FAST = LEVEL_OF["training"]
"""fast/ may import what training may, and training's protocols."""
SELECTOR = "training.parts"
"""The one module that imports fast/, within a function."""
NOT_FOR_EXPORT = {"training", "runs", "fast"}

EXCEPTIONS = {
    # Typed records: what an export and the others ask of a run will lie below training.
    ("runs.pool", "train"),
    ("export.job", "runs"),
    # The check of untrusted ONNX files lies in the deployed predictor, which stands alone; imported in a function.
    ("evaluate.onnx_file", "export"),
}
"""(module, part): known, to be taken away. A new one is a mistake."""


def modules() -> dict[str, Path]:
    """Name without "distmnist." -> file, of the package and of export/, which is distmnist.export."""
    found = {".".join(path.relative_to(ROOT / "distmnist").with_suffix("").parts): path
             for path in (ROOT / "distmnist").rglob("*.py") if path.parent.name != "export"}  # fmt: skip
    found |= {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in (ROOT / "export").rglob("*.py")}
    return found


def imported(path: Path) -> Iterator[str]:
    """The modules of ours that a file imports, at its top or within a function, without "distmnist."."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:  # export/ imports its own modules relatively
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("distmnist."):
                yield name.removeprefix("distmnist.")
            elif name.startswith("export."):
                yield name


def part_of(module: str) -> str:
    return module.split(".")[0]


def may(importer: str, imported: str) -> bool:
    if importer == imported:
        return True
    if importer == "fast":
        return imported in LEVEL_OF and LEVEL_OF[imported] <= BELOW_FAST
    if imported == "fast" or (importer in COMMANDS and imported in COMMANDS):
        return False
    if importer == "export" and imported in NOT_FOR_EXPORT:
        return False
    return LEVEL_OF[imported] < LEVEL_OF[importer] or (imported in LEVELS[1] and importer in LEVELS[1])


def arrows() -> set[tuple[str, str]]:
    """(module, part) of each import that does not point down."""
    found = set()
    for module, path in modules().items():
        for name in imported(path):
            part = part_of(name)
            if part.startswith("__"):
                continue  # the package's own version
            if not may(part_of(module), part) and (module, part) != (SELECTOR, "fast"):
                found.add((module, part))
    return found


def test_every_module_has_a_level():
    assert {part_of(module) for module in modules()} - {"fast"} <= set(LEVEL_OF)


def test_imports_point_one_way_but_for_the_known_exceptions():
    assert arrows() == EXCEPTIONS


@pytest.mark.parametrize(
    ("importer", "imported", "right"),
    [("training", "data", True), ("data", "training", False), ("study", "report", False), ("export", "runs", False),
     ("fast", "training", True), ("training", "fast", False), ("config", "errors", True)],
)  # fmt: skip
def test_the_rule_itself(importer, imported, right):
    assert may(importer, imported) is right
