"""Wheels of every package, and environments that hold some of them and share everything else."""

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    tomllib.loads(path.read_text())["project"]["name"]: path.parent
    for path in [ROOT / "pyproject.toml", *sorted(ROOT.glob("*/vader-*/pyproject.toml"))]
}
PLUGINS = [name for name in PACKAGES if name != "vader-core"]


@dataclass
class Environment:
    """A virtual environment; ``folders`` with further packages come first on its path."""

    python: Path
    folders: list[Path] = field(default_factory=list)

    def run(self, *arguments, cwd=None, timeout=240):
        """``vader ARGUMENTS`` in this environment, without this process's own settings."""
        return self.execute("-m", "vader_core", *arguments, cwd=cwd, timeout=timeout)

    def execute(self, *arguments, cwd=None, timeout=240):
        return subprocess.run(
            [str(self.python), *map(str, arguments)],
            env=self.settings(),
            cwd=cwd or self.python.parent,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    @contextmanager
    def warm(self, folder: Path, *, everything: bool = True):
        """A function that runs ``vader …`` or ``pytest …`` in ``folder`` and gives exit code and output.

        Each command runs in a fork of one process that has imported torch already; see ``warm.py``.
        """
        server = subprocess.Popen(
            [str(self.python), str(Path(__file__).with_name("warm.py")), *(["all"] if everything else [])],
            env=self.settings(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        out = folder / "output.txt"

        def run(*words):
            server.stdin.write(json.dumps({"words": words, "cwd": str(folder), "out": str(out)}) + "\n")
            server.stdin.flush()
            return int(server.stdout.readline()), out.read_text()

        try:
            yield run
        finally:
            server.stdin.close()
            server.wait(60)

    def settings(self):
        """Environment variables: those of this process without its own settings."""
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VADER", "COV"))
        }
        environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
        if self.folders:
            environment["PYTHONPATH"] = os.pathsep.join(map(str, self.folders))
        return environment

    def pip(self, *arguments, cwd=None):
        """``pip install ARGUMENTS`` into this environment: offline, and our packages alone."""
        return pip_install(self.python, arguments, "--no-build-isolation", cwd=cwd)

    def registry(self):
        """What the installed plugins announce: kinds with names, and errors by plugin."""
        done = self.execute("-c", _LIST)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def with_folders(self, *folders):
        return Environment(self.python, [*folders, *self.folders])


_LIST = """
import json, sys
from vader_core.registry import load_registry
registry = load_registry()
assert "torch" not in sys.modules
print(json.dumps({
    "components": {kind: sorted(table) for kind, table in registry.components.items()},
    "errors": {plugin.name: plugin.error for plugin in registry.plugins if plugin.error},
    "plugins": [plugin.name for plugin in registry.plugins],
    "clashes": [[*key, *plugins] for key, plugins in registry.clashes.items()],
}))
"""


def build_wheel(source: Path, out: Path) -> Path:
    """The wheel of the package in ``source``, built into a folder of its own."""
    out.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=source,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = out.glob("*.whl")
    return wheel


class Wheels(dict[str, Path]):
    """Wheels by distribution name; each is built when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __missing__(self, name: str) -> Path:
        self[name] = build_wheel(PACKAGES[name], self._folder / name)
        return self[name]

    def every(self) -> list[Path]:
        """The wheel of each package."""
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(self.__getitem__, PACKAGES))


@pytest.fixture(scope="session")
def wheels(tmp_path_factory):
    """Every package's wheel, by distribution name."""
    return Wheels(tmp_path_factory.mktemp("wheels"))


@pytest.fixture(scope="session")
def third_party(tmp_path_factory):
    """A folder with everything that is installed here, but none of our own packages."""
    folder = tmp_path_factory.mktemp("third-party")
    for site in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(site).iterdir():
            ours = entry.name.startswith(("vader", "_vader", "__editable__"))
            if not ours and entry.suffix != ".pth" and entry.name != "__pycache__":
                (folder / entry.name).symlink_to(entry)
    return folder


@pytest.fixture(scope="session")
def make_environment(tmp_path_factory, third_party):
    """A function that makes an environment with some wheels, installed by pip without their dependencies."""

    def make(*installed: Path) -> Environment:
        home = tmp_path_factory.mktemp("environment") / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
        python = home / "bin" / "python"
        (site,) = home.glob("lib/python*/site-packages")
        (site / "third_party.pth").write_text(f"{third_party}\n")
        done = pip_install(python, installed)
        assert done.returncode == 0, done.stderr
        return Environment(python)

    return make


def pip_install(python: Path, installed, *options, cwd=None) -> subprocess.CompletedProcess:
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install"]
    quiet = ["--quiet", "--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check", *options]
    words = [*pip, *quiet, *map(str, installed)]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True)


@pytest.fixture(scope="session")
def core(make_environment, wheels):
    """An environment with the core alone."""
    return make_environment(wheels["vader-core"])


@pytest.fixture(scope="session")
def everything(make_environment, wheels):
    """An environment with every package."""
    return make_environment(*wheels.every())


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory, wheels):
    """A function that gives a folder with one package's wheel, unpacked."""

    def unpack(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        with zipfile.ZipFile(wheels[name]) as archive:
            archive.extractall(folder)
        return folder

    return unpack
