"""The import graph of the sources: every module, every import, wherever in a file it stands."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: The core's layers, from the ground up: a module imports from its own layer or from one below. A folder
#: stands for all that lies in it; what is not named is a contract, or a noun that contracts hand each other.
LAYERS = (
    ("the contracts", ()),
    ("nn", ("nn",)),
    ("parallel", ("parallel",)),
    ("lora", ("lora",)),
    ("data", ("data",)),
    ("tuning", ("tuning",)),
    ("method", ("method",)),
    ("builtin", ("builtin",)),
    ("performance", ("performance",)),
    ("run", ("run",)),
    ("report", ("report",)),
    ("assembly", ("assembly",)),
    ("evaluation", ("evaluation",)),
    ("training", ("training",)),
    ("profiling", ("profiling",)),
    ("api", ("api",)),
    ("testing", ("testing",)),
    ("cli", ("cli", "__main__")),
)


def sources(package: Path) -> dict[str, Path]:
    """Every module of a package by its full name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(name: str, path: Path, known: set[str]) -> set[str]:
    """The known modules that a file imports: at the top, in functions, under ``TYPE_CHECKING``, by name."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            inner = {f"{module}.{alias.name}" for alias in node.names}
            modules = inner & known
            found |= modules
            if len(modules) < len(inner):
                found.add(module)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in ("import_module", "__import__"):
                found.add(str(node.args[0].value))
    return (found & known) - {name}


def graph(package: Path) -> dict[str, set[str]]:
    """Every module of a package with the modules of it that it imports."""
    modules = sources(package)
    return {name: imports_of(name, path, set(modules)) for name, path in modules.items()}


def layer_of(module: str) -> int:
    """The number of a core module's layer, from the ground up."""
    top = module.split(".")[1] if "." in module else ""
    for number, (_, folders) in enumerate(LAYERS):
        if top in folders:
            return number
    return 0


def upward(edges: dict[str, set[str]]) -> list[str]:
    """Imports that run from a layer to one above it."""
    return [
        f"{LAYERS[layer_of(source)][0]}: {source} imports {target} ({LAYERS[layer_of(target)][0]})"
        for source, targets in sorted(edges.items())
        for target in sorted(targets)
        if layer_of(target) > layer_of(source)
    ]


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Sets of modules that import each other in a circle (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in sorted(edges[name]):
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            members = []
            while not members or members[-1] != name:
                members.append(stack.pop())
            if len(members) > 1:
                found.append(sorted(members))

    for name in sorted(edges):
        if name not in index:
            visit(name)
    return found
