"""Every test that needs no device is run by one target of the Makefile."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
MARKS = ("gpu", "slow", "soak")


def marks_of(target):
    """The expression by which a target chooses tests."""
    (recipe,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.M)
    (quoted, word) = re.search(r" -m (?:'([^']+)'|(\w+)) ?(?:--|$)", recipe, re.M).groups()
    return quoted or word


def runs(target, marked):
    """Whether the target runs a test with these marks: pytest's words are Python's."""
    return eval(marks_of(target), {mark: mark in marked for mark in MARKS})


@pytest.mark.parametrize("more", [(), ("slow",), ("soak",), ("slow", "soak")], ids=str)
def test_one_target_runs_each_test(more):
    assert sum(runs(target, more) for target in ("test", "slow", "soak")) == 1
    assert runs("lowest", more) == ("soak" not in more)
    assert not any(runs(target, (*more, "gpu")) for target in ("test", "slow", "lowest"))


def test_marks_are_declared_and_continuous_integration_runs_both_tiers():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"][
        "markers"
    ]
    assert set(MARKS) <= {line.partition(":")[0] for line in declared}
    targets = re.findall(r"^make (\w+)$", (ROOT / ".ci" / "run").read_text(), re.M)
    assert targets == ["types", "test", "slow"]


CASES = """
import pytest

@pytest.mark.quick_cases("a*")
@pytest.mark.parametrize("x", ["a1", "a2", "b"])
def test_named_quick(x): pass

@pytest.mark.slow_cases("b")
@pytest.mark.parametrize("x", ["a1", "a2", "b"])
def test_named_slow(x): pass
"""


@pytest.mark.parametrize(("pattern", "code"), [("b", 0), ("c", 4)])
def test_cases_are_slow_by_their_ids_and_an_id_that_is_none_is_an_error(tmp_path, pattern, code):
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_cases.py").write_text(CASES.replace('slow_cases("b")', f'slow_cases("{pattern}")'))
    words = ["-q", "--collect-only", "-p", "no:cacheprovider", "-m", "not slow", "."]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout
    if code:
        assert "c of test_cases.py::test_named_slow" in done.stderr
    else:
        found = re.findall(r"::(\w+\[\w+\])", done.stdout)
        assert found == [f"test_named_{kind}[a{number}]" for kind in ("quick", "slow") for number in (1, 2)]
