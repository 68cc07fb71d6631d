"""Plugins that misbehave when they are listed: each is named, and nothing else is harmed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vader_core import listing
from vader_core.component import Plugin
from vader_core.registry import Registry, load_registry

REPOSITORY = Path(__file__).parents[2]

SOUND = """
from vader_core.hookspecs import hookimpl

def make(config, *, device, dtype):
    raise AssertionError("listing makes nothing")

@hookimpl
def register_rewards(register):
    register("bad_one", make, summary="a reward")
"""
HOOK = "from vader_core.hookspecs import hookimpl\n\n@hookimpl\ndef {hook}(register):\n    {body}\n"
AWKWARD = """
class Awkward(BaseException):
    def __str__(self):
        raise RuntimeError("no words")
raise Awkward
"""
SLY = """
class Sly(str):
    def __str__(self):
        raise RuntimeError("no words")
    __repr__ = __format__ = __str__
"""


def hook(body, name="register_rewards", before=""):
    return before + HOOK.format(hook=name, body=body)


#: Source of a plugin module, and what its error says.
BROKEN = {
    "ends the process at once": ("import os\nos._exit(0)", "ended the process .*exit code 0"),
    "ends the process with a code": ("import os\nos._exit(7)", "ended the process .*exit code 7"),
    "kills itself": ("import os\nos.kill(os.getpid(), 9)", "ended the process .*signal 9"),
    "crashes": ("import ctypes\nctypes.string_at(0)", "ended the process .*signal 11"),
    "ends in a hook": (hook("import os; os._exit(0)"), "ended the process"),
    "closes every file": ("import os\nos.closerange(0, 256)\nos._exit(0)", "ended the process"),
    "exits": ("raise SystemExit(3)", "SystemExit: 3"),
    "raises the base of all": ("raise BaseException('odd')", "BaseException: odd"),
    "raises an interrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "raises an interrupt in a hook": (hook("raise KeyboardInterrupt"), "KeyboardInterrupt"),
    "has no words for its error": (AWKWARD, r"Awkward: \(its message cannot be read\)"),
    "writes an error of many lines": (
        "raise ValueError('a\\nb\\x1b[31m' + 'c' * 9999)",
        r"ValueError: a b\[31mccc",
    ),
    "recurses": ("def f(): f()\nf()", "RecursionError"),
    "a number as summary": (hook("register('x', print, summary=3)"), "the summary is a int, not text"),
    "bytes as name": (hook("register(b'x', print)"), "the name of a reward is a bytes, not text"),
    "nothing as name": (hook("register(None, print)"), "the name of a reward is a NoneType, not text"),
    "no factory": (hook("register('x', 3)"), "the factory is a int, not a function"),
    "a place that is none": (hook("register('x', 'some words')"), "must be written module:attribute"),
    "options that are no model": (
        hook("register('x', print, config=dict)"),
        "must be a pydantic model",
    ),
    "weights that are words": (hook("register('x', print, weights='hub')"), "weights must be WeightFiles"),
    "a number as command": (
        hook("register(3, 'a:b')", "register_commands"),
        "the name of a command is a int, not text",
    ),
    "a list as summary of a command": (
        hook("register('x', 'a:b', summary=[])", "register_commands"),
        "the summary is a list, not text",
    ),
    "a command of three words": (
        hook("register('a b c', 'a:b')", "register_commands"),
        "'a b c' is not a comm",
    ),
    "a command that is an option": (
        hook("register('--help', 'a:b')", "register_commands"),
        "not a command's name",
    ),
    "a number as place of a format": (
        hook("register('x', 3)", "register_lora_formats"),
        "is a int, not text",
    ),
}

#: Plugins that are listed all the same: what they do besides must not be seen.
NOISY = {
    "prints": "print('{\"noise\": 1}')\n" + SOUND,
    "writes to the descriptor": "import os\nos.write(1, b'noise\\n'); os.write(2, b'noise\\n')\n" + SOUND,
    "prints when it ends": "import atexit\natexit.register(print, 'noise')\n" + SOUND,
    "closes the stream": "import sys\nsys.stdout.close()\n" + SOUND,
    "puts another stream in its place": "import sys\nsys.stdout = None\nsys.stderr = None\n" + SOUND,
    "reads": "import sys\nsys.stdin.read()\n" + SOUND,
    "changes json and click": "import json, click\njson.dumps = click.echo = None\n" + SOUND,
    "leaves the folder": "import os\nos.chdir('/')\n" + SOUND,
    "answers with words of its own": hook(
        "register(Sly('bad_one'), make, summary=Sly('a reward'))", before=SLY + "\nmake = print\n"
    ),
}


@pytest.fixture
def vader_with(tmp_path):
    """A function that lays out one more plugin and runs ``vader`` beside it."""

    def prepare(source):
        info = tmp_path / "place" / "bad-1.0.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (tmp_path / "place" / "bad_plugin.py").write_text(source)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[vader]\nbad = bad_plugin\n")

        def run(*words):
            return subprocess.run(
                [sys.executable, "-m", "vader_core", *words],
                capture_output=True,
                text=True,
                cwd=tmp_path,
                input="",
                env=os.environ
                | {
                    "PYTHONPATH": os.pathsep.join([str(tmp_path / "place"), str(REPOSITORY)]),
                    "XDG_CACHE_HOME": str(tmp_path / "cache"),
                    "COLUMNS": "300",
                },
            )

        return run

    return prepare


def all_at_once(cases, tmp_path):
    """``vader plugins --json`` over all the cases, as plugins of one environment."""
    place = tmp_path / "place"
    for index, source in enumerate(cases):
        info = place / f"bad{index}-1.0.dist-info"
        info.mkdir(parents=True)
        (place / f"bad{index}_plugin.py").write_text(source.replace("bad_one", f"bad_{index}"))
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: bad{index}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[vader]\nbad{index} = bad{index}_plugin\n")
    done = subprocess.run(
        [sys.executable, "-m", "vader_core", "plugins", "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{place}{os.pathsep}{REPOSITORY}", "XDG_CACHE_HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_every_broken_plugin_is_named_and_all_others_are_listed(tmp_path):
    found = all_at_once([source for source, _ in BROKEN.values()], tmp_path)
    plugins = [plugin for plugin in found["plugins"] if plugin["name"].startswith("bad")]
    errors = {plugin["name"]: plugin["error"] for plugin in plugins if plugin["error"]}
    assert [case for index, case in enumerate(BROKEN) if f"bad{index}" not in errors] == []
    for index, (case, (_, message)) in enumerate(BROKEN.items()):
        assert re.search(message, errors[f"bad{index}"]), f"{case}: {errors[f'bad{index}']}"
        assert len(errors[f"bad{index}"]) <= 620
        assert errors[f"bad{index}"].isprintable()
    mine = load_registry()
    for kind, items in found["components"].items():
        assert {item["name"] for item in items} == set(mine.components[kind])


def test_every_noisy_plugin_is_listed_and_not_heard(tmp_path):
    found = all_at_once(NOISY.values(), tmp_path)
    rewards = {item["name"] for item in found["components"]["reward"]}
    assert {f"bad_{index}" for index in range(len(NOISY))} <= rewards
    assert not [plugin for plugin in found["plugins"] if plugin["error"] and plugin["name"].startswith("bad")]


@pytest.mark.quick_cases("ends*")
@pytest.mark.parametrize("case", ["ends the process at once", "raises the base of all"])
def test_an_unrelated_command_does_not_notice(vader_with, case):
    run = vader_with(BROKEN[case][0])
    done = run("show", "sampler", "ddim", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["name"] == "ddim"
    assert done.stderr == ""
    told = run("plugins")
    assert told.returncode == 0
    assert "plugin 'bad' (bad 1.0) failed to load: " in told.stdout


def test_a_used_plugin_prints_into_no_answer(vader_with):
    run = vader_with(NOISY["writes to the descriptor"])
    done = run("show", "reward", "bad_one", "--json")
    assert json.loads(done.stdout)["name"] == "bad_one"
    assert run("show", "sampler", "ddim").stderr == ""  # another's component: it is not imported


def test_a_plugin_that_is_repaired_is_seen_at_once(vader_with):
    assert "failed to load" in vader_with("import nothing_like_it")("plugins").stdout
    assert "bad_one" in vader_with(SOUND)("plugins").stdout
    assert "a better reward" in vader_with(SOUND.replace("a reward", "a better reward"))("plugins").stdout
    assert "failed to load" in vader_with("import nothing_like_it  # again")("plugins").stdout


def test_a_command_named_like_ours_replaces_nothing(vader_with):
    run = vader_with(hook("register('plugins', 'bad_plugin:command')", "register_commands"))
    done = run("plugins")
    assert "command 'plugins' of plugin 'bad' is never called" in done.stdout
    assert "builtin" in done.stdout


def test_a_command_that_cannot_be_imported_is_one_message(vader_with):
    body = "register('mine', 'bad_plugin:command')"
    done = vader_with(hook(body, "register_commands"))("mine")
    assert done.returncode == 2
    assert (
        "'mine' of plugin 'bad' cannot be used: bad_plugin:command: bad_plugin has no 'command'"
        in done.stderr
    )


def test_a_plugin_that_hangs_is_given_up(tmp_path, monkeypatch):
    (tmp_path / "hangs.py").write_text("import time\ntime.sleep(1000)\n")
    (tmp_path / "sound.py").write_text(SOUND)
    monkeypatch.syspath_prepend(tmp_path)
    program = listing._PROGRAM.replace(
        "answer(", "import vader_core.listing\nvader_core.listing.PATIENCE = 3.0\nanswer("
    )
    monkeypatch.setattr(listing, "_PROGRAM", program)
    begun = time.monotonic()
    hangs, sound = listing._ask([("hangs", "hangs"), ("sound", "sound")])
    assert hangs["error"] == "it was not imported within 3 s"
    assert sound["components"] == [["reward", "bad_one", "a reward"]]
    assert time.monotonic() - begun < 60


def test_listing_imports_no_plugin_and_asks_nobody_twice(tmp_path):
    code = (
        "import sys\n"
        "from vader_core import listing\n"
        "from vader_core.cli import run\n"
        "assert run(['plugins']) == 0\n"
        "asked = []\n"
        "def again(plugins):\n"
        "    asked.extend(name for name, _ in plugins)\n"
        "    return [listing._broken('asked again')] * len(plugins)\n"
        "listing._ask = again\n"
        "heavy = ('torch', 'pydantic', 'vader_core.builtin.plugin', 'vader_demo')\n"
        "assert not [name for name in heavy if name in sys.modules]\n"
        "assert run(['plugins']) == 0\n"
        "assert 'builtin' not in asked and 'demo' not in asked, asked\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("vader/plugins-*.json"))) == 1


@pytest.mark.quick_cases("{", "[[]]")
@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"a": 3}', '{"a": {"error": null}}', "[" * 100_000, "\udcff"]
)
def test_a_damaged_cache_is_asked_again(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place = listing._cache_file()
    place.parent.mkdir()
    place.write_bytes(damage.encode(errors="surrogateescape"))
    assert "ddim" in load_registry().components["sampler"]
    assert "ddim" in place.read_text()


def test_without_a_place_for_the_cache_listing_works(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "ddim" in load_registry().components["sampler"]


def test_in_this_process_too_a_hook_harms_nothing_else():
    registry = Registry()
    for index, case in enumerate(["raises an interrupt in a hook", "bytes as name"]):
        module = type(sys)(f"made_up{index}")
        exec(BROKEN[case][0], vars(module))
        registry.add(module, Plugin(f"made_up{index}", "x", "1", module.__name__))
    assert len(registry.broken()) == 2
    assert not any(registry.components.values())
