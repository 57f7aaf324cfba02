"""Outside distmnist/fast, nothing uses a name that torch keeps for itself: plain PyTorch is what is documented."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = [
    *(path for path in (ROOT / "distmnist").rglob("*.py") if "fast" not in path.relative_to(ROOT).parts),
    *(ROOT / "export").glob("*.py"),
]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def private_names(source: str) -> Iterator[str]:
    """Dotted names of torch with a private part: imported, or reached from anything that was imported from torch."""
    tree = ast.parse(source)
    roots = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(alias.asname or alias.name.split(".")[0], alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names]
        else:
            continue
        for bound, name in names:
            if name.split(".")[0] in ("torch", "torchvision"):
                roots.add(bound)
                if any(map(is_private, name.split("."))):
                    yield name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            root = node.value
            while isinstance(root, ast.Attribute | ast.Call):
                root = root.value if isinstance(root, ast.Attribute) else root.func
            if isinstance(root, ast.Name) and root.id in roots:
                yield ast.unparse(node)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_private_name_of_torch_is_used(path):
    assert list(private_names(path.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch._fused_adam_()",
        "import torch._dynamo",
        "from torch._C import _engine",
        "from torch import autograd as a\na.Variable._execution_engine.run_backward()",
        "import torch.distributed as dist\ndist.group()._get_backend()",
    ],
)
def test_private_names_are_seen(source):
    assert list(private_names(source))


def test_names_of_ones_own_are_no_concern():
    assert list(private_names("import torch\nclass A:\n    def f(self): self._x = torch.zeros(1).__class__")) == []
