"""Who may import whom, over the whole import graph: imports in functions and under TYPE_CHECKING count."""

import ast
import importlib.util
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("import_graph", Path(__file__).with_name("import_graph.py"))
found = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(found)

ROOT = found.ROOT
CORE = found.graph(ROOT / "vader_core")
PLUGINS = sorted(path for path in ROOT.glob("*/vader-*/vader_*") if (path / "plugin.py").is_file())
#: Folders that are public beside what stands at the top of the core; ``api`` is for a command or a screen.
TOOLBOXES = ("nn", "lora", "method", "data", "testing", "api")


def is_public(module: str) -> bool:
    """What stands at the top of the core is public, and so are the toolboxes; everything else is its own."""
    parts = module.split(".")
    return len(parts) == 1 or parts[1] in TOOLBOXES or (ROOT / "vader_core" / f"{parts[1]}.py").is_file()


def test_no_import_of_the_core_runs_upward_and_there_is_no_circle():
    edges = sum(len(targets) for targets in CORE.values())
    print(f"{len(CORE)} modules, {edges} imports, {len(found.circles(CORE))} circles, "
          f"{len(found.upward(CORE))} upward")  # fmt: skip
    assert len(CORE) > 100
    assert edges > 400
    assert found.upward(CORE) == []
    assert found.circles(CORE) == []


@pytest.mark.parametrize(
    ("source", "target", "says"),
    [
        ("vader_core.method.model", "vader_core.run.config", "method: vader_core.method.model imports"),
        ("vader_core.backbone", "vader_core.method.model", "the contracts: vader_core.backbone imports"),
        (
            "vader_core.training.trainer",
            "vader_core.api.train",
            "training: vader_core.training.trainer imports",
        ),
    ],
)
def test_a_planted_upward_import_is_found(tmp_path, source, target, says):
    planted = dict(CORE)
    planted[source] = planted[source] | {target}
    assert any(line.startswith(says) for line in found.upward(planted))


@pytest.mark.parametrize(
    "line",
    [
        "def f():\n    from vader_core.cli import main\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import vader_core.cli\n",
        "from vader_core import cli\n",
        "from .cli import main\n",
        "import importlib\nimportlib.import_module('vader_core.cli')\n",
    ],
)
def test_an_import_is_found_wherever_it_stands(tmp_path, line):
    path = tmp_path / "backbone.py"
    path.write_text(line)
    assert "vader_core.cli" in found.imports_of("vader_core.backbone", path, {"vader_core", "vader_core.cli"})


def test_a_planted_circle_is_found():
    planted = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}
    assert found.circles(planted) == [["a", "b", "c"]]


def test_the_core_imports_no_plugin():
    names = {package.name for package in PLUGINS}
    assert names
    modules = found.sources(ROOT / "vader_core")
    for name, path in modules.items():
        assert not found.imports_of(name, path, names), name


def test_the_core_imports_no_library_of_models():
    """But for the makers of networks: they take seconds, and a model without them trains without."""
    libraries = {"accelerate", "diffusers", "peft", "transformers"}
    for name, path in found.sources(ROOT / "vader_core").items():
        assert name.startswith("vader_core.nn.") or not found.imports_of(name, path, libraries), name


def test_the_core_imports_its_testing_kit_only_where_it_is_asked_for():
    allowed = {"vader_core.cli.check", "vader_core.cli.new_plugin", "vader_core.kinds"}
    guilty = [
        source
        for source, targets in CORE.items()
        if not source.startswith("vader_core.testing")
        and source not in allowed
        and any(target.startswith("vader_core.testing") for target in targets)
    ]
    assert guilty == []


@pytest.mark.parametrize("package", PLUGINS, ids=lambda path: path.name)
def test_a_plugin_imports_only_what_is_public_in_the_core_and_no_other_plugin(package):
    known = set(CORE) | {other.name for other in PLUGINS if other != package}
    modules = found.sources(package)
    imported = {name: found.imports_of(name, path, known) for name, path in modules.items()}
    assert any(target.startswith("vader_core") for targets in imported.values() for target in targets)
    for name, targets in imported.items():
        ours = {target for target in targets if target.split(".")[0] == "vader_core"}
        private = sorted(target for target in ours if not is_public(target))
        assert private == [], f"{name} imports {private}"
        assert not targets - ours, f"{name} imports another plugin"
    assert found.circles(found.graph(package)) == []


def test_nothing_in_the_core_is_too_long_to_read():
    """Lines of a file, of a function with its docstring, and of the trainer."""
    long = []
    for path in sorted((ROOT / "vader_core").rglob("*.py")):
        text = path.read_text()
        parts = [("file", path.name, text.count("\n"), 450)]
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                parts.append(("function", node.name, node.end_lineno - node.lineno + 1, 60))
            elif isinstance(node, ast.ClassDef) and node.name == "Trainer":
                parts.append(("class", node.name, node.end_lineno - node.lineno + 1, 250))
        long += [f"{kind} {name} of {path}: {lines}" for kind, name, lines, most in parts if lines > most]
    assert long == []
