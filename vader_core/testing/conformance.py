"""The conformance kit's frame: clauses, what they are held against, and what they find.

A clause is one sentence of a contract with a function that tries to break it. The clauses of each kind are
in the modules that the table of kinds names; what they share is here.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar

import torch
from pydantic import BaseModel
from torch import Tensor

from vader_core.component import KINDS, Component, Kind, resolved
from vader_core.errors import VaderError
from vader_core.function_files import PLUGIN
from vader_core.progress import Progress, unseen
from vader_core.registry import Registry, load_registry

#: Packages that ``plugin.py`` must leave to its factories: each takes seconds to import.
HEAVY = ("torch", "torchvision", "diffusers", "transformers", "peft", "accelerate", "open_clip", "timm")

#: Largest relative difference that float32 rounding in another order is granted.
ROUNDING = 5e-4


class ConformanceError(VaderError):
    """A component breaks a clause of its contract.

    Args:
        subject: Kind and name, e.g. ``reward 'redness'``.
        clause: Name of the clause.
        promise: What the contract says.
        found: The values that break it.
    """

    def __init__(self, subject: str, clause: str, promise: str, found: str) -> None:
        super().__init__(f"{subject} breaks the clause `{clause}`: {promise} Found: {found}")
        self.clause = clause
        self.found = found


class Broken(Exception):  # noqa: N818 - raised and caught within the kit
    """Raised inside a clause, with the values."""


def expect(condition: object, found: str) -> None:
    """Within a clause: the contract is broken unless ``condition`` is true; ``found`` gives the values."""
    if not condition:
        raise Broken(found)


@dataclass
class Subject:
    """A component under examination.

    Args:
        component: As registered.
        options: Its options.
        device: Where it is made.
    """

    #: Flags of ``vader check`` that mean something for this kind.
    flags: ClassVar[tuple[str, ...]] = ()

    component: Component
    options: Mapping[str, Any] = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def settings(cls, flags: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of this class out of the flags of ``vader check``."""
        return {}

    def __str__(self) -> str:
        return str(self.component)

    def make(self, dtype: torch.dtype = torch.float32) -> Any:
        """A fresh component."""
        return self.component.make(dict(self.options), device=self.device, dtype=dtype)


@dataclass(frozen=True)
class Clause:
    """One sentence of a contract.

    Args:
        name: Short name, e.g. ``batch_independence``.
        promise: The sentence.
        examine: Tries to break it: raises :class:`Broken`, or returns the values it saw.
    """

    name: str
    promise: str
    examine: Callable[[Any], str]

    def __str__(self) -> str:
        return self.name

    def require(self, subject: Subject) -> str:
        """The values seen, in words.

        Raises:
            ConformanceError: The clause is broken, or the component raised where it must not.
        """
        try:
            return self.examine(subject)
        except Broken as broken:
            raise ConformanceError(str(subject), self.name, self.promise, str(broken)) from broken
        except Exception as error:  # the plugin border: a stranger's code may raise anything
            raise ConformanceError(
                str(subject), self.name, self.promise, f"{type(error).__name__}: {error}"
            ) from error


class Contract(list[Clause]):
    """The clauses of one kind, in the order they are examined, and how they are held against a component.

    Args:
        kind: The kind; its first clauses are those that all kinds share.
        subject_class: What the clauses are given.
    """

    def __init__(self, kind: Kind, subject_class: type[Subject] = Subject) -> None:
        super().__init__()
        self.kind = kind
        self.subject_class = subject_class
        for function in (registration, plugin_import, options):
            self.clause(function)

    def clause(self, examine: Callable[[Any], str]) -> Callable[[Any], str]:
        """Add ``examine`` under its own name (a decorator); its docstring's first sentence is the promise."""
        promise = " ".join((examine.__doc__ or "").split("\n\n")[0].split())
        self.append(Clause(examine.__name__, promise, examine))
        return examine

    def clauses(self) -> list[Clause]:
        """Every clause, to parametrise a test over (``ids=str``)."""
        return list(self)

    def subject(
        self,
        component: str | Component,
        options: Mapping[str, Any] | None = None,
        *,
        registry: Registry | None = None,
        device: torch.device | str = "cpu",
        **settings: Any,
    ) -> Any:
        """What the clauses are held against; arguments as of :meth:`check`.

        Raises:
            VaderError: The name is unknown, or the component is of another kind.
        """
        if isinstance(component, str):
            component = (registry or load_registry()).get(self.kind, component)
        if component.kind != self.kind:
            raise VaderError(f"{component.name!r} is a {component.kind}, not a {self.kind}")
        return self.subject_class(component, dict(options or {}), torch.device(device), **settings)

    def check(
        self,
        component: str | Component,
        options: Mapping[str, Any] | None = None,
        *,
        raising: bool = True,
        **settings: Any,
    ) -> Report:
        """Hold a component against its contract.

        Args:
            component: A registered name, or the component itself.
            options: Its options, e.g. ``{"weights": "random"}``; a model's smallest size is the best choice.
            raising: Whether a broken clause raises.
            **settings: ``registry``, where a name is looked up (the installed plugins by default);
                ``device``, where it is made; and what its kind's subject takes beside: ``geometry`` and
                ``prompts`` of a backbone, ``height``, ``width`` and ``prompts`` of a reward.

        Raises:
            ConformanceError: Naming the clause and the values.
        """
        report = examine(self, self.subject(component, options, **settings))
        return report.require() if raising else report


@dataclass(frozen=True)
class Finding:
    """What one clause found: the values, or the error."""

    clause: Clause
    passed: bool
    found: str
    error: ConformanceError | None = None


@dataclass(frozen=True)
class Report:
    """What every clause found."""

    subject: str
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether no clause is broken."""
        return not self.broken

    @property
    def broken(self) -> tuple[str, ...]:
        """Names of the broken clauses."""
        return tuple(finding.clause.name for finding in self.findings if not finding.passed)

    def lines(self) -> list[str]:
        """One line a clause."""
        width = max(len(finding.clause.name) for finding in self.findings)
        return [
            f"{'ok    ' if finding.passed else 'BROKEN'}  {finding.clause.name:<{width}}  {finding.found}"
            for finding in self.findings
        ]

    def verdict(self) -> str:
        """How many clauses were kept and how many broken, in one line."""
        failed = len(self.broken)
        return f"{self.subject}: {len(self.findings) - failed} passed, {failed} failed"

    def require(self) -> Report:
        """The report itself.

        Raises:
            ConformanceError: The first broken clause; the others are named in its message.
        """
        errors = [finding.error for finding in self.findings if finding.error is not None]
        if not errors:
            return self
        others = ", ".join(error.clause for error in errors[1:])
        if others:
            errors[0].args = (f"{errors[0]} (also broken: {others})",)
        raise errors[0]


def examine(contract: Contract, subject: Subject, progress: Progress = unseen) -> Report:
    """Hold ``subject`` against every clause; nothing is raised."""
    findings = []
    for number, clause in enumerate(contract):
        progress(f"checking {clause.name}", number, len(contract))
        try:
            findings.append(Finding(clause, True, clause.require(subject)))
        except ConformanceError as error:
            findings.append(Finding(clause, False, error.found, error))
    return Report(str(subject), tuple(findings))


# -- what several kinds share ---------------------------------------------------------------------------


def in_subprocess(program: str, *arguments: str, hash_seed: str = "random") -> str:
    """What a Python program prints, run with this process's import path and without its state.

    Raises:
        Broken: It failed; the last line of its errors.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise Broken(f"a fresh process failed: {last[0]}")
    return done.stdout


_IMPORT = """
import importlib, json, sys
importlib.import_module(sys.argv[1])
print(json.dumps([name for name in json.loads(sys.argv[2]) if name in sys.modules]))
"""


def registration(subject: Subject) -> str:
    """It is registered with a one-line summary, and its factory makes a component of its kind."""
    component = subject.component
    expect(component.summary.strip(), "the summary is empty")
    expect("\n" not in component.summary, f"the summary has several lines: {component.summary!r}")
    made = subject.make()
    wanted = resolved(KINDS[component.kind].contract)
    expect(isinstance(made, wanted), f"the factory returned a {type(made).__name__}, not a {wanted.__name__}")
    if "name" in getattr(wanted, "__annotations__", {}):
        own = getattr(made, "name", None)
        expect(own == component.name, f"registered as {component.name!r}, but its own name is {own!r}")
    return f"{type(made).__name__}: {component.summary}"


def plugin_import(subject: Subject) -> str:
    """Importing the plugin module imports nothing heavy, so that listing the plugins stays fast."""
    module = subject.component.module
    if subject.component.plugin == PLUGIN:
        return f"{module} is no plugin: the command line names it"
    imported = _heavy_imports(module)
    expect(not imported, f"importing {module} also imports {', '.join(imported)}")
    return f"{module} imports none of {', '.join(HEAVY)}"


@cache
def _heavy_imports(module: str) -> list[str]:
    found: list[str] = json.loads(in_subprocess(_IMPORT, module, json.dumps(HEAVY)))
    return found


def options(subject: Subject) -> str:
    """Every option has a description, a valid default (or is required) and a YAML form; no other is taken."""
    model = subject.component.config
    for name, info in model.model_fields.items():
        expect((info.description or "").strip(), f"option {name!r} has no description")
        expect(
            not info.is_required() or name in subject.options,
            f"option {name!r} has no default and was not given",
        )
    made = subject.component.options(dict(subject.options))
    plain = made.model_dump(mode="json")
    _same_options(subject.component, made, plain)
    try:
        subject.component.options({**subject.options, "no_such_option": 1})
    except VaderError:
        return f"{len(model.model_fields)} options: {', '.join(model.model_fields) or 'none'}"
    raise Broken("an unknown option `no_such_option` was accepted: set extra='forbid'")


def _same_options(component: Component, made: BaseModel, plain: dict[str, Any]) -> None:
    try:
        again = component.options(json.loads(json.dumps(plain)))
    except (VaderError, TypeError) as error:
        raise Broken(f"its own values {plain} are not taken back: {error}") from error
    expect(again == made, f"written and read back, {made!r} becomes {again!r}")


@contextmanager
def global_state_untouched() -> Iterator[None]:
    """Within, neither torch's nor Python's nor numpy's global random state may change.

    Raises:
        Broken: One did.
    """
    with reseeded(97531):  # a state that nothing seeds by chance
        before = _global_state()
        yield
        after = _global_state()
    for name, was, now in zip(("torch", "Python", "numpy"), before, after, strict=True):
        expect(was == now, f"{name}'s global random state was changed")


def _global_state() -> tuple[object, ...]:
    import numpy

    state: Any = numpy.random.get_state()
    return torch.get_rng_state().tolist(), random.getstate(), (state[1].tolist(), state[2])


@contextmanager
def reseeded(seed: int) -> Iterator[None]:
    """Within, every global random state stands at ``seed``; it is put back at the end."""
    import numpy

    before = (torch.get_rng_state(), random.getstate(), numpy.random.get_state())
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        random.setstate(before[1])
        numpy.random.set_state(before[2])


def relative(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, relative to the largest value of ``wanted``."""
    scale = max(float(wanted.detach().abs().max()), 1e-12)
    return float((found.detach().double() - wanted.detach().double()).abs().max()) / scale


def expect_close(found: Tensor, wanted: Tensor, what: str, *, within: float = ROUNDING) -> float:
    """Within a clause: both are equal to rounding; returns the relative difference."""
    expect(
        found.shape == wanted.shape, f"{what}: shape {tuple(found.shape)} instead of {tuple(wanted.shape)}"
    )
    off = relative(found, wanted)
    expect(off <= within, f"{what}: they differ by {off:.2g} of the largest value (allowed {within:.0e})")
    return off


def expect_tensor(
    value: object, shape: tuple[int, ...], what: str, *, dtype: torch.dtype | None = None
) -> Tensor:
    """Within a clause: ``value`` is a finite tensor of that shape and dtype."""
    if not isinstance(value, Tensor):
        raise Broken(f"{what} is a {type(value).__name__}, not a tensor")
    expect(tuple(value.shape) == shape, f"{what} has shape {tuple(value.shape)}, not {shape}")
    expect(dtype is None or value.dtype == dtype, f"{what} has dtype {value.dtype}, not {dtype}")
    bad = int((~torch.isfinite(value)).sum())
    expect(not bad, f"{what} has {bad} values that are not finite")
    return value


def expect_refused(call: Callable[[], object], what: str) -> str:
    """Within a clause: ``call`` raises a :class:`VaderError`; its message."""
    try:
        call()
    except VaderError as error:
        expect(str(error).strip(), f"{what} was refused without a message")
        return str(error)
    except Exception as error:
        raise Broken(f"{what} raised {type(error).__name__} ({error}), not a VaderError") from error
    raise Broken(f"{what} was accepted")
