"""What the installed plugins announce, found without importing one of them into this process.

A plugin is a stranger's code. It may end the process, print, hang or fail while it is imported, so each is
imported in a process of its own, which tells in JSON what the plugin announces. The answers of sound plugins
are kept in the user's cache until a file of the plugin or of the core changes; a broken one is asked again
each time.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib import metadata, util
from pathlib import Path
from typing import Any

from vader_core import __version__
from vader_core.component import KINDS, Plugin, one_line, told
from vader_core.errors import VaderError
from vader_core.files import replacing

GROUP = "vader"

#: Seconds that all plugins together may take to be imported.
PATIENCE = 60.0

#: Days after which a listing that nothing reads any more is removed.
KEPT_DAYS = 30

#: The rows of an answer: component (kind, name, summary), command and LoRA format (name, target, summary).
_ROWS = ("components", "commands", "lora_formats")


@dataclass(frozen=True)
class Listed:
    """A plugin with what it announced: rows of three words, as the module's head says."""

    plugin: Plugin
    value: str
    components: tuple[tuple[str, str, str], ...] = ()
    commands: tuple[tuple[str, str, str], ...] = ()
    lora_formats: tuple[tuple[str, str, str], ...] = ()


def listed() -> list[Listed]:
    """Every installed plugin, sorted by name; a broken one has an error and announces nothing."""
    kept = _read_cache()
    core = (_files(__package__), *_site())
    found: list[Listed | None] = []
    asked: list[tuple[int, Plugin, str, str | None]] = []
    fresh: dict[str, Any] = {}
    for plugin, value, distribution in _installed():
        key = _fingerprint(plugin, value, core)
        if key is not None and key in kept:
            fresh[key] = kept[key]
            found.append(_with(plugin, value, kept[key]))
            continue
        error = _core_version_error(distribution)
        if error is None:
            asked.append((len(found), plugin, value, key))
        found.append(Listed(replace(plugin, error=error), value))
    answers = _ask([(plugin.name, value) for _, plugin, value, _ in asked]) if asked else []
    for (index, plugin, value, key), answer in zip(asked, answers, strict=True):
        found[index] = _with(plugin, value, answer)
        if key is not None and not answer["error"]:
            fresh[key] = answer
    if fresh.keys() != kept.keys():
        _write_cache(fresh)
    return [one for one in found if one is not None]


def _with(plugin: Plugin, value: str, answer: dict[str, Any]) -> Listed:
    if answer["error"]:
        return Listed(replace(plugin, error=answer["error"], trace=answer["trace"]), value)
    return Listed(plugin, value, *(tuple(tuple(row) for row in answer[rows]) for rows in _ROWS))


# -- what is installed ---------------------------------------------------------------------------------------


def _installed() -> Iterator[tuple[Plugin, str, metadata.Distribution | None]]:
    seen: set[tuple[str, str]] = set()
    points = sorted(metadata.entry_points(group=GROUP), key=lambda point: point.name)
    for point in points:
        if (point.name, point.value) in seen:  # an editable install can be found twice
            continue
        seen.add((point.name, point.value))
        name, version = _name_and_version(point.dist)
        yield Plugin(point.name, name, version, point.value.partition(":")[0]), point.value, point.dist


def _name_and_version(distribution: metadata.Distribution | None) -> tuple[str, str]:
    try:
        assert distribution is not None
        return str(distribution.name), str(distribution.version)
    except Exception:  # metadata that somebody else wrote
        return "?", "?"


def _core_version_error(distribution: metadata.Distribution | None) -> str | None:
    """Why this core is none that the distribution asks for."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        lines = (distribution.requires if distribution is not None else None) or ()
    except Exception as error:  # metadata that somebody else wrote
        return f"its metadata cannot be read: {told(error)}"
    for line in lines:
        if not line.lower().replace("_", "-").startswith("vader-core"):  # most are not, and parsing is slow
            continue
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.name.replace("_", "-").lower() != "vader-core":
            continue
        if not requirement.specifier.contains(__version__, prereleases=True):
            name = _name_and_version(distribution)[0]
            return (
                f"it needs vader-core{requirement.specifier}, but {__version__} is installed: "
                f"upgrade {name} or vader-core"
            )
    return None


# -- the cache -----------------------------------------------------------------------------------------------


def _fingerprint(plugin: Plugin, value: str, core: object) -> str | None:
    """Changes whenever the plugin may announce something else; ``None`` where its files are not found."""
    own = _files(value.partition(":")[0].partition(".")[0])
    if own is None:
        return None
    facts = (plugin.name, value, plugin.distribution, plugin.version, __version__, sys.version, own, core)
    return hashlib.sha256(repr(facts).encode(errors="surrogateescape")).hexdigest()


def _site() -> tuple[int, ...]:
    """Times of the folders of installed packages: a plugin may look for others."""
    places = {Path(entry) for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")}
    return tuple(place.stat().st_mtime_ns for place in sorted(places) if place.is_dir())


def _files(package: str) -> str | None:
    """Names, sizes and times of a package's files."""
    try:
        spec = util.find_spec(package)
    except Exception:  # a finder, or a name, that somebody else wrote
        return None
    if spec is None:
        return None
    places = spec.submodule_search_locations or [spec.origin or ""]
    seen = hashlib.sha256()
    for place in places:
        for path, status in _walk(place):
            seen.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return seen.hexdigest()


def _walk(place: str) -> Iterator[tuple[str, os.stat_result]]:
    if not Path(place).is_dir():
        if Path(place).is_file():
            yield place, Path(place).stat()
        return
    with os.scandir(place) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                if entry.name != "__pycache__":
                    yield from _walk(entry.path)
            elif entry.is_file():
                yield entry.path, entry.stat()


def _cache_file() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    environment = hashlib.sha256(f"{sys.prefix}\0{__file__}".encode(errors="surrogateescape")).hexdigest()
    return Path(home) / "vader" / f"plugins-{environment[:16]}.json"


def _read_cache() -> dict[str, Any]:
    try:
        kept = json.loads(_cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError, RecursionError):
        return {}
    if not isinstance(kept, dict):
        return {}
    return {key: answer for key, answer in kept.items() if _is_answer(answer) and not answer["error"]}


def _write_cache(answers: dict[str, Any]) -> None:
    """Keep the answers; where nothing can be written, they are asked for again."""
    try:
        place = _cache_file()
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing(place) as part:
            part.write_text(json.dumps(answers), encoding="utf-8")
        for old in place.parent.glob("plugins-*.json"):
            if time.time() - old.stat().st_mtime > KEPT_DAYS * 86400:
                old.unlink(missing_ok=True)
    except (OSError, RuntimeError, VaderError):
        return


# -- asking --------------------------------------------------------------------------------------------------

#: What most plugins need is imported once, before the forks; collecting in a fork would copy what all share.
_PROGRAM = """
import gc, json, sys
gc.disable()
asked = json.load(sys.stdin)
sys.path[:] = asked["path"]
import pydantic, vader_core.builtin.plugin, vader_core.registration, vader_core.weights
from vader_core.listing import answer
answer(asked["plugins"])
"""


def _ask(plugins: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """What the plugins (entry point name and value) announce, each asked in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        input=json.dumps({"path": sys.path, "plugins": plugins}),
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        answers = json.loads(done.stdout)
    except ValueError:
        answers = []
    if len(answers) != len(plugins):
        last = one_line((done.stderr.strip().splitlines() or ["no message"])[-1])
        return [_broken(f"the process that imports plugins failed: {last}")] * len(plugins)
    return [one if _is_answer(one) else _broken("its answer cannot be read") for one in answers]


def _broken(error: str, trace: str = "") -> dict[str, Any]:
    return {"error": error, "trace": trace, **{rows: [] for rows in _ROWS}}


def _is_answer(answer: Any) -> bool:
    if not isinstance(answer, dict) or answer.keys() != {"error", "trace", *_ROWS}:
        return False
    words = isinstance(answer["trace"], str) and isinstance(answer["error"], str | None)
    return (
        words
        and all(_are_rows(answer[rows]) for rows in _ROWS)
        and all(row[0] in KINDS for row in answer["components"])
    )


def _are_rows(rows: Any) -> bool:
    return isinstance(rows, list) and all(
        isinstance(row, list) and len(row) == 3 and all(isinstance(word, str) for word in row) for row in rows
    )


# -- answering, in the other process -------------------------------------------------------------------------


def answer(plugins: Iterable[tuple[str, str]]) -> None:
    """Print, as JSON, what each plugin announces; each is imported in a fork, all at the same time."""
    begun = [_begin(name, value) for name, value in plugins]
    deadline = time.monotonic() + PATIENCE
    answers = [_end(child, pipe, deadline) for child, pipe in begun]
    sys.stdout.write(json.dumps(answers))


def _begin(name: str, value: str) -> tuple[int, int]:
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        line = json.dumps(_described(name, value)).encode() + b"\n"
        while line:
            line = line[os.write(writing, line) :]
    finally:
        os._exit(0)


def _described(name: str, value: str) -> dict[str, Any]:
    from vader_core.registration import registered

    try:
        module = metadata.EntryPoint(name, value, GROUP).load()
        found = registered(module, name)
    except BaseException as error:  # the plugin border: a stranger's code may raise anything
        return _broken(told(error), "".join(traceback.format_exception(error)))
    return {
        "error": None,
        "trace": "",
        "components": [[one.kind, one.name, one.summary] for one in found.components],
        "commands": [[one.name, one.target, one.summary] for one in found.commands],
        "lora_formats": [[one.name, one.target, one.summary] for one in found.lora_formats],
    }


def _end(child: int, pipe: int, deadline: float) -> dict[str, Any]:
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return _broken(f"it was not imported within {PATIENCE:g} s")
        piece = os.read(pipe, 65536)
        if not piece:
            break
        line += piece
    status = _ended(child)
    try:
        found: dict[str, Any] = json.loads(line)
    except ValueError:
        return _broken(f"it ended the process while it was imported ({status})")
    return found


def _ended(child: int) -> str:
    """Wait for the process a moment, end it if need be, and say how it ended."""
    for _ in range(100):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return f"exit code {code}" if code >= 0 else f"signal {-code}"
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "its pipe was closed"
