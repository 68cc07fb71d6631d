"""Every package builds, installs beside the core or beside all others, lists and runs."""

import json
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
SOURCES = {
    tomllib.loads(path.read_text())["project"]["name"]: path.parent
    for path in [ROOT / "pyproject.toml", *sorted(ROOT.glob("*/vader-*/pyproject.toml"))]
}
PLUGINS = [name for name in SOURCES if name != "vader-core"]


@pytest.mark.quick_cases("vader-core", "vader-example")
@pytest.mark.parametrize("name", SOURCES)
def test_a_wheel_holds_its_package_and_nothing_else(wheels, name):
    package = name.replace("-", "_")
    with zipfile.ZipFile(wheels[name]) as archive:
        names = archive.namelist()
        (metadata,) = [entry for entry in names if entry.endswith(".dist-info/METADATA")]
        head = Parser().parsestr(archive.read(metadata).decode())
    assert {entry.split("/")[0] for entry in names} == {package, metadata.split("/")[0]}
    assert f"{package}/py.typed" in names
    assert not [entry for entry in names if "__pycache__" in entry or "/tests/" in entry]
    source = SOURCES[name] / package
    files = {f"{package}/{path.relative_to(source)}" for path in source.rglob("*.py")}
    assert files <= set(names)
    recipes = {f"{package}/{path.relative_to(source)}" for path in source.rglob("*.yaml")}
    assert recipes <= set(names)
    assert head["License-Expression"] == "Apache-2.0"
    (licence,) = [entry for entry in names if entry.endswith("/licenses/LICENSE")]
    with zipfile.ZipFile(wheels[name]) as archive:
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
    if name != "vader-core":
        (core,) = [line for line in head.get_all("Requires-Dist") if line.startswith("vader-core")]
        built = wheels["vader-core"].name.split("-")[1]  # between tags 0.1.0.postN
        assert Requirement(core).specifier.contains(built)


@pytest.mark.slow
def test_source_distributions_hold_no_tests_and_no_goldens(tmp_path):
    import subprocess
    import sys
    import tarfile

    for name in ("vader-core", "vader-example"):
        build = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path)]
        subprocess.run([*build, str(SOURCES[name])], check=True, capture_output=True)
        (found,) = tmp_path.glob(f"{name.replace('-', '_')}-*.tar.gz")
        with tarfile.open(found) as archive:
            inside = {entry.split("/", 1)[1] for entry in archive.getnames()}
        assert {"LICENSE", "README.md", "pyproject.toml", "PKG-INFO"} <= inside
        assert not [entry for entry in inside if entry.startswith(("plugins", "tests/parity", "docs"))]


@pytest.mark.slow
def test_the_core_alone_lists_and_runs(core):
    listed = core.registry()
    assert listed["plugins"] == ["builtin"]
    assert listed["errors"] == {}
    assert listed["components"]["backbone"] == []
    assert {"ddim", "dpmpp", "euler", "rectified_flow"} <= set(listed["components"]["sampler"])
    done = core.run("check", "sampler", "dpmpp")
    assert done.returncode == 0, done.stderr
    assert "BROKEN" not in done.stdout


def test_the_core_alone_asked_to_train_names_what_to_install(core, tmp_path):
    done = core.run("train", "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "pip install" in done.stderr
    assert "vader-demo" in done.stderr
    assert "Traceback" not in done.stderr


#: Plugins that bring commands alone, with one of them.
COMMANDS = {"vader-data": ("data", "cut"), "vader-studio": ("studio",)}


@pytest.mark.quick_cases("vader-example")
@pytest.mark.parametrize("name", PLUGINS)
def test_the_core_and_one_plugin(core, unpacked, name):
    alone = core.registry()["components"]
    listed = core.with_folders(unpacked(name)).registry()
    assert listed["errors"] == {}
    assert listed["clashes"] == []
    assert len(listed["plugins"]) == 2
    brought = {kind: set(names) - set(alone[kind]) for kind, names in listed["components"].items()}
    if name in COMMANDS:
        assert core.with_folders(unpacked(name)).run(*COMMANDS[name], "--help").returncode == 0
    else:
        assert any(brought.values())


@pytest.mark.slow
def test_all_together(everything):
    listed = everything.registry()
    assert listed["errors"] == {}
    assert listed["clashes"] == []
    assert len(listed["plugins"]) == 1 + len(PLUGINS)
    done = everything.run("plugins", "--json")
    assert done.returncode == 0, done.stderr
    for names in listed["components"].values():
        assert [name for name in names if f'"{name}"' not in done.stdout] == []
    shown = everything.run("show", "reward", "example_redness")
    assert shown.returncode == 0, shown.stderr


@pytest.mark.soak
def test_all_together_train(everything, tmp_path):
    options = ["-o", "backbone.weights=random", "-o", "backbone.architecture=tiny"]
    done = everything.run(
        *("train", "--backbone", "latte", *options, "--sampler", "ddim", "--num-steps", "2"),
        *("--reward", "example_redness", "--prompts", "example_fruit", "--max-steps", "2"),
        *("--out", tmp_path / "run", "--json"),
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["steps"] == 2
