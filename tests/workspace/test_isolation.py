"""A plugin that is broken is named with its error and harms nothing else."""

import pytest

SOUND = """
from vader_core.hookspecs import hookimpl

def make(config, *, device, dtype):
    raise AssertionError("listing makes nothing")

@hookimpl
def register_rewards(register):
    register("{reward}", make, summary="a reward")
"""


@pytest.fixture
def distribution(tmp_path):
    """A function that lays out an installed distribution with one plugin module."""

    def lay_out(name, source, requires="vader-core>=0.1"):
        folder = tmp_path / name
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (folder / f"{name}_plugin.py").write_text(source)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: {requires}\n"
        )
        (info / "entry_points.txt").write_text(f"[vader]\n{name} = {name}_plugin\n")
        return folder

    return lay_out


@pytest.mark.quick_cases("brokenimport-*", "outdated-*")
@pytest.mark.parametrize(
    ("name", "source", "requires", "words"),
    [
        ("brokenimport", "import a_package_that_nobody_has", "vader-core", ["a_package_that_nobody_has"]),
        ("brokensyntax", "def register(:", "vader-core", ["SyntaxError"]),
        ("brokenexit", "raise SystemExit(3)", "vader-core", ["SystemExit"]),
        (
            "misspelt",
            SOUND.format(reward="shade").replace("register_rewards", "register_reward"),
            "vader-core",
            ["register_reward", "register_rewards"],
        ),
        ("misnamed", SOUND.format(reward="Shade!"), "vader-core", ["Shade!"]),
        ("outdated", SOUND.format(reward="shade"), "vader-core<0.1", ["vader-core<0.1", "upgrade"]),
        ("ahead", SOUND.format(reward="shade"), "vader-core>=7", ["vader-core>=7", "upgrade"]),
    ],
)
def test_a_broken_plugin_is_named_and_harms_nothing_else(core, distribution, name, source, requires, words):
    folders = [distribution(name, source, requires), distribution("sound", SOUND.format(reward="good"))]
    listed = core.with_folders(*folders).registry()
    assert list(listed["errors"]) == [name]
    for word in words:
        assert word in listed["errors"][name]
    assert listed["components"]["reward"] == ["good"]
    assert {**listed["components"], "reward": []} == core.registry()["components"]


def test_the_commands_name_a_broken_plugin(core, distribution):
    environment = core.with_folders(
        distribution("brokenimport", "import a_package_that_nobody_has"),
        distribution("sound", SOUND.format(reward="good")),
    )
    done = environment.run("plugins")
    assert done.returncode == 0, done.stderr
    assert "brokenimport" in done.stdout + done.stderr
    assert "a_package_that_nobody_has" in done.stdout + done.stderr
    assert "good" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    unknown = environment.run("show", "reward", "goood")
    assert unknown.returncode == 2
    assert "did you mean 'good'?" in unknown.stderr
    assert "plugin 'brokenimport' (brokenimport) failed to load" in unknown.stderr


def test_two_plugins_that_claim_one_name_are_both_named(core, distribution):
    environment = core.with_folders(
        distribution("one", SOUND.format(reward="shade")),
        distribution("two", SOUND.format(reward="shade")),
        distribution("sound", SOUND.format(reward="good")),
    )
    listed = environment.registry()
    assert listed["clashes"] == [["reward", "shade", "one", "two"]]
    assert listed["components"]["reward"] == ["good"]
    done = environment.run("show", "reward", "shade")
    assert done.returncode == 2
    assert "reward 'shade' is registered by 'one' and 'two'; uninstall one of them" in done.stderr


@pytest.mark.slow
def test_a_component_that_fails_when_made_is_named_without_a_traceback(core, distribution):
    source = SOUND.format(reward="fragile")
    source = source.replace('raise AssertionError("listing makes nothing")', "import nothing_like_it")
    environment = core.with_folders(distribution("fragile", source))
    done = environment.run("check", "reward", "fragile")
    assert done.returncode == 2
    assert "reward 'fragile' breaks the clause `registration`" in done.stderr
    assert "nothing_like_it" in done.stderr
    assert "Traceback" not in done.stderr
