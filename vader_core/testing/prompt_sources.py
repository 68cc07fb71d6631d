"""The contract of a prompt source, clause by clause."""

from __future__ import annotations

import json
from pathlib import Path

from vader_core.prompts import Prompt, PromptSource
from vader_core.testing.conformance import (
    Broken,
    Contract,
    Subject,
    expect,
    global_state_untouched,
    in_subprocess,
    reseeded,
)

PROMPT_SOURCE = Contract("prompt source")
check_prompt_source, prompt_source_clauses = PROMPT_SOURCE.check, PROMPT_SOURCE.clauses
prompt_source_subject = PROMPT_SOURCE.subject

_INDICES = (0, 1, 2, 3, 7, 12, 40, 41, 1000, 10**9)


def _drawn(source: PromptSource, indices: tuple[int, ...] = _INDICES, seed: int = 3) -> list[Prompt]:
    prompts = source.draw(list(indices), seed=seed)
    expect(isinstance(prompts, list), f"draw returned a {type(prompts).__name__}, not a list")
    expect(len(prompts) == len(indices), f"draw returned {len(prompts)} prompts for {len(indices)} indices")
    for prompt in prompts:
        _expect_prompt(prompt)
    return prompts


def _expect_prompt(prompt: object) -> None:
    if not isinstance(prompt, Prompt):
        raise Broken(f"{prompt!r} is a {type(prompt).__name__}, not a Prompt")
    expect(isinstance(prompt.text, str), f"the text {prompt.text!r} is no string")
    expect(prompt.text.strip() or prompt.image is not None, f"{prompt!r} has neither text nor image")
    if prompt.image is not None:
        expect(isinstance(prompt.image, Path), f"the image {prompt.image!r} is no pathlib.Path")
        expect(prompt.image.is_file(), f"the image {prompt.image} does not exist")


@PROMPT_SOURCE.clause
def draws_prompts(subject: Subject) -> str:
    """`draw` answers any index, however large, with one prompt that has a text or an image that exists."""
    prompts = _drawn(subject.make())
    _drawn(subject.make(), ())
    return f"index 0: {prompts[0].text!r}, index 10^9: {prompts[-1].text!r}"


@PROMPT_SOURCE.clause
def function_of_seed_and_index(subject: Subject) -> str:
    """A prompt depends on seed and index alone: not on the order or number of calls, nor on the others."""
    source = subject.make()
    together = _drawn(source)
    for index, wanted in reversed(list(zip(_INDICES, together, strict=True))):
        alone = _drawn(source, (index,))[0]
        expect(alone == wanted, f"index {index} is {wanted.text!r} among others and {alone.text!r} alone")
    _drawn(source, seed=4)
    again = _drawn(source)
    expect(again == together, "the same indices give other prompts after a draw with another seed")
    expect(_drawn(subject.make()) == together, "a second instance with the same options draws other prompts")
    distinct = len({prompt.text for prompt in _drawn(source, tuple(range(64)))})
    return f"{distinct} different prompts among the first 64"


_DRAW = """
import importlib, json, sys
from vader_core.registry import Plugin, Registry
module, name, options, indices = sys.argv[1:5]
registry = Registry()
registry.add(importlib.import_module(module), Plugin("it", "it", "0", module))
source = registry.get("prompt source", name).make(json.loads(options), device="cpu", dtype=None)
print(json.dumps([prompt.text for prompt in source.draw(json.loads(indices), seed=3)]))
"""


@PROMPT_SOURCE.clause
def same_in_every_process(subject: Subject) -> str:
    """Equal arguments give equal prompts in any process (no `hash()`, no order of a set or a folder)."""
    component = subject.component
    arguments = (
        component.module,
        component.name,
        json.dumps(component.options(dict(subject.options)).model_dump(mode="json")),
        json.dumps(_INDICES),
    )
    here = [prompt.text for prompt in _drawn(subject.make())]
    there = json.loads(in_subprocess(_DRAW, *arguments, hash_seed="12345"))
    for index, mine, other in zip(_INDICES, here, there, strict=True):
        expect(mine == other, f"index {index} is {mine!r} here and {other!r} in another process")
    return f"{len(here)} prompts equal in a second process"


@PROMPT_SOURCE.clause
def global_state(subject: Subject) -> str:
    """No global random state is read or changed."""
    source = subject.make()
    with reseeded(1):
        first = _drawn(source)
        held_out = source.all()
    with reseeded(2):
        second = _drawn(subject.make())
        expect(subject.make().all() == held_out, "`all` changes with the global random state")
    expect(first == second, "the prompts change with the global random state")
    with global_state_untouched():
        _drawn(source)
        source.all()
    return "torch, Python and numpy unread and unchanged"


@PROMPT_SOURCE.clause
def evaluation_prompts(subject: Subject) -> str:
    """`all` gives the evaluation prompts, at least one, in a fixed order; its list belongs to the caller."""
    source = subject.make()
    prompts = source.all()
    expect(isinstance(prompts, list), f"all returned a {type(prompts).__name__}, not a list")
    expect(prompts, "there is no evaluation prompt")
    for prompt in prompts:
        _expect_prompt(prompt)
    wanted = list(prompts)
    prompts.clear()
    expect(source.all() == wanted, "emptying the returned list changed the source")
    expect(subject.make().all() == wanted, "a second instance gives other evaluation prompts")
    trained = {prompt.text for prompt in _drawn(source, tuple(range(256)))}
    shared = sum(prompt.text in trained for prompt in wanted)
    return f"{len(wanted)} prompts, {shared} of them also drawn in training"
