"""A reward that is a function in a Python file: ``--reward FILE.py:FUNCTION``.

The command line and Python code bring such a function into the registry. A run directory or a YAML file that
names one imports nothing, so that nobody's code runs because a folder was opened.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vader_core.errors import VaderError, did_you_mean
from vader_core.paths import entered, kept

if TYPE_CHECKING:
    from vader_core.component import Component
    from vader_core.registry import Registry

#: What Python code of this process has named, by file and function.
_NAMED: dict[tuple[str, str], FunctionFile] = {}
#: What such a reward's place is among plugins.
PLUGIN = "this command line"
_FORM = re.compile(r"(?P<file>.*\.py)(?::(?P<function>[^:]*))?(?::(?P<weight>.*))?", re.DOTALL)


@dataclass(frozen=True)
class FunctionFile:
    """A function in a file.

    Args:
        file: Absolute path of the Python file.
        function: Name of a function at its top level, which is the reward's name too.
        weight: As it was typed; empty where none was.
    """

    file: Path
    function: str
    weight: str = ""

    @classmethod
    def parse(cls, text: str) -> FunctionFile | None:
        """Read ``FILE.py:FUNCTION[:WEIGHT]``; ``None`` for a registered name. Nothing is imported.

        Raises:
            VaderError: There is no such file, or no such function in it; lists those that there are.
        """
        found = _FORM.fullmatch(text)
        if found is None:
            return None
        file = entered(found["file"])
        if not file.is_file():
            raise VaderError(f"{text}: there is no file {file}; write FILE.py:FUNCTION or a reward's name")
        names, function = functions_of(file), found["function"] or ""
        if function not in names:
            what = f"{file} has no function {function!r}{did_you_mean(function, names)}"
            raise VaderError(
                f"{what if function else f'{text}: which function? Write {file}:FUNCTION'} "
                f"(functions in it: {', '.join(names) or 'none'})"
            )
        return cls(Path(kept(file)), function, found["weight"] or "")

    @property
    def checksum(self) -> str:
        """SHA-256 of the file."""
        return sha256(self.file.read_bytes()).hexdigest()

    def load(self) -> Callable[..., Any]:
        """Import the file and return the function.

        Raises:
            VaderError: The file raises, with the line.
        """
        found: Callable[..., Any] = getattr(_imported(self.file), self.function)
        return found

    def add_to(self, registry: Registry) -> dict[str, Any]:
        """Register the function under its name, and return its entry for a run's ``reward`` section.

        Raises:
            VaderError: A reward of that name is there already.
        """
        from vader_core.component import Component

        table = registry.components["reward"]
        other = table.get(self.function)
        if other is not None and other.module != str(self.file):
            whose = f"of {other.module}" if other.plugin == PLUGIN else f"of plugin {other.plugin!r}"
            raise VaderError(
                f"{self.file}:{self.function}: the reward {self.function!r} {whose} has that name: rename "
                "the function"
            )
        summary = f"the function {self.function} of {self.file.name}"  # reports are handed on
        load = partial(_registration, self)
        table[self.function] = Component("reward", self.function, summary, PLUGIN, str(self.file), load)
        return {"name": self.function, "function_file": str(self.file), "function_sha256": self.checksum}


def named_in_python(text: str) -> FunctionFile | None:
    """Read ``FILE.py:FUNCTION[:WEIGHT]`` as Python code gives it, which permits the function from now on.

    Raises:
        VaderError: As :meth:`FunctionFile.parse`.
    """
    found = FunctionFile.parse(text)
    if found is not None:
        _NAMED[str(found.file), found.function] = found
    return found


def reward_names(rewards: Sequence[str], registry: Registry) -> list[str]:
    """Rewards as names of ``registry``; those given as ``FILE.py:FUNCTION`` are brought into it.

    Raises:
        VaderError: As :meth:`FunctionFile.parse`.
    """
    names = []
    for reward in rewards:
        found = named_in_python(reward)
        names.append(reward if found is None else str(found.add_to(registry)["name"]))
    return names


def functions_of(file: Path) -> list[str]:
    """The functions at the top level of a Python file, by reading it.

    Raises:
        VaderError: It cannot be read or is not Python.
    """
    try:
        tree = ast.parse(file.read_bytes(), str(file))
    except SyntaxError as error:
        raise VaderError(f"{file}, line {error.lineno}: {error.msg}") from error
    except (OSError, ValueError) as error:
        raise VaderError(f"{file} cannot be read: {error}") from error
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


def permitted(registry: Registry, item: Mapping[str, Any]) -> Component:
    """The component of an entry of a run's ``reward`` or ``monitor`` section.

    Raises:
        VaderError: It is a function in a file, and this command line does not name the file.
    """
    name, file = str(item["name"]), item.get("function_file")
    known = registry.components["reward"].get(name)
    if file is not None and (known is None or known.module != str(file)):
        mine = _NAMED.get((str(file), name))
        if mine is None:
            raise VaderError(
                f"reward {name!r} is a function in {file}, and code is not run because a folder names it: if "
                f"you trust that file, give --reward {file}:{name} (--monitor for a monitor); in Python, "
                f"configure(reward={f'{file}:{name}'!r}, …)"
            )
        mine.add_to(registry)
    return registry.get("reward", name)


def _registration(found: FunctionFile) -> Any:
    from vader_core.component import Registration

    def make(config: Any, *, device: Any, dtype: Any) -> Any:
        from vader_core.function_reward import function_reward

        return function_reward(found.load(), found.file)

    return Registration(make)


def _imported(file: Path) -> ModuleType:
    """The file as a module; its folder can be imported from, as where Python runs a file."""
    content = sha256(str(file).encode() + b"\0" + file.read_bytes())  # an edited file is another module
    name = f"vader_function_file_{content.hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    specification = importlib.util.spec_from_file_location(name, file)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a stranger's code may raise anything
        del sys.modules[name]
        from vader_core.component import told
        from vader_core.errors import line_in

        raise VaderError(f"{line_in(error, file) or file}: {told(error)}") from error
    return module
