"""Who may import whom, read from the sources: the core no plugin, plugins only the core's public modules."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGIN_PACKAGES = sorted(path for path in ROOT.glob("*/vader-*/vader_*") if (path / "plugin.py").is_file())

#: What a plugin may import: the contracts, their value types, and what they are worked with.
PUBLIC = {
    "vader_core",
    "vader_core.backbone",
    "vader_core.method.denoise",
    "vader_core.errors",
    "vader_core.nn.feature_cache",
    "vader_core.nn.fused",
    "vader_core.nn.fused_diffusers",
    "vader_core.geometry",
    "vader_core.method.gradient",
    "vader_core.method.guidance",
    "vader_core.hookspecs",
    "vader_core.nn.functional",
    "vader_core.lora.adapter",
    "vader_core.lora.formats",
    "vader_core.memory",
    "vader_core.prompts",
    "vader_core.randomness",
    "vader_core.nn.recompute",
    "vader_core.registry",
    "vader_core.reward",
    "vader_core.sampler",
    "vader_core.video",
    "vader_core.weights",
}


def is_module(parent: str, name: str) -> bool:
    """Whether ``name`` is a module of the core's package ``parent``, not one of its attributes."""
    place = ROOT.joinpath(*parent.split("."), name)
    return parent.split(".")[0] == "vader_core" and (place.is_dir() or place.with_suffix(".py").is_file())


def imported(path: Path, package: str) -> set[str]:
    """Full names of the modules that a source file imports, wherever in it, relative ones resolved."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            found.add(module)
            found |= {f"{module}.{alias.name}" for alias in node.names if is_module(module, alias.name)}
        elif (
            isinstance(node, ast.Call)
            and getattr(node.func, "attr", getattr(node.func, "id", "")) in ("import_module", "__import__")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            found.add(node.args[0].value)
    return found


def graph(folder: Path) -> dict[str, set[str]]:
    """Every source file of a package with what it imports."""
    sources = {}
    for path in sorted(folder.rglob("*.py")):
        parent = path.relative_to(folder.parent).parent
        sources[str(path.relative_to(folder.parent))] = imported(path, ".".join(parent.parts))
    return sources


def test_the_core_imports_no_plugin():
    names = {package.name for package in PLUGIN_PACKAGES}
    assert names
    sources = graph(ROOT / "vader_core")
    assert len(sources) > 20
    guilty = {
        source: sorted(module for module in modules if module.split(".")[0] in names)
        for source, modules in sources.items()
    }
    assert {source: modules for source, modules in guilty.items() if modules} == {}


def test_the_core_imports_its_testing_kit_only_where_it_is_asked_for():
    allowed = {"vader_core/cli/check.py", "vader_core/cli/new_plugin.py"}
    guilty = [
        source
        for source, modules in graph(ROOT / "vader_core").items()
        if not source.startswith("vader_core/testing/")
        and source not in allowed
        and any(module.startswith("vader_core.testing") for module in modules)
    ]
    assert guilty == []


@pytest.mark.parametrize("package", PLUGIN_PACKAGES, ids=lambda path: path.name)
def test_a_plugin_imports_only_public_modules_of_the_core_and_no_other_plugin(package):
    sources = graph(package)
    assert any(module.startswith("vader_core") for modules in sources.values() for module in modules)
    others = {other.name for other in PLUGIN_PACKAGES} - {package.name}
    for source, modules in sources.items():
        ours = {module for module in modules if module.split(".")[0] == "vader_core"}
        assert ours <= PUBLIC, f"{source} imports {sorted(ours - PUBLIC)}"
        assert not {module for module in modules if module.split(".")[0] in others}, source
