"""The contract of an objective, clause by clause, over a tiny model with an adapter."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.lora.adapter import LoraSettings
from vader_core.lora.tuning import Lora
from vader_core.method.guidance import Guidance
from vader_core.method.mixture import Mixture, Term
from vader_core.method.model import Model
from vader_core.method.objective import Batch, Objective, StepResult
from vader_core.method.segments import Segments
from vader_core.prompts import Clip, Prompt
from vader_core.randomness import Randomness
from vader_core.registry import Component, load_registry
from vader_core.testing.conformance import (
    Broken,
    Contract,
    Subject,
    expect,
    expect_close,
    expect_tensor,
    global_state_untouched,
    reseeded,
)
from vader_core.testing.options import TinyConfig
from vader_core.testing.rewards import moving_patterns
from vader_core.testing.tiny import BrightnessReward, TinyBackbone
from vader_core.training.processes import SingleProcess

#: What an objective may ask for.
NEEDS = frozenset({"rewards", "scores", "videos"})

#: Models that are tried in turn, until one is accepted: schedule, sampler and the sampler's options. The
#: second draws fresh noise in every step, as a policy needs.
MODELS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("flow", "rectified_flow", {}),
    ("epsilon", "ddim", {"eta": 1.0}),
)

STEPS = 3
_GEOMETRY = Geometry(height=16, width=16, num_frames=4, fps=8.0)
_TEXTS = ("a red boat on a river", "two dogs run over a field of snow")
#: Two samples of each prompt: advantages within a group are not all zero.
_PROMPTS = tuple(Prompt(text) for text in _TEXTS for _ in range(2))


@dataclass
class ObjectiveSubject(Subject):
    """An objective under examination.

    Args:
        prompts: What a micro-batch asks for, or learns from: two different ones, each twice.
    """

    prompts: Sequence[Prompt] = _PROMPTS

    def place(self) -> Place:
        """The objective, made anew, with a loaded model of its own."""
        return Place(self)


class Place:
    """An objective with a model that it accepts, its batches, and what was sent back."""

    def __init__(self, subject: ObjectiveSubject) -> None:
        self.subject = subject
        self.objective: Objective = subject.make()
        self.model = self._accepted_model()
        self.model.backbone.load()
        settings = LoraSettings(2, 2.0, self.model.backbone.lora_targets, seed=4)
        self.tuning = Lora(self.model.backbone.denoiser, settings)
        self.model.tuning = self.tuning
        self._move_adapter()
        if self.objective.needs & {"rewards", "scores"}:
            self.objective.use(Mixture((Term("brightness", BrightnessReward()),)))
        self.processes = SingleProcess(subject.device)
        #: The losses that were sent back since the last :meth:`step`.
        self.sent: list[float] = []

    def _accepted_model(self) -> Model:
        refusals = []
        for schedule, sampler, options in MODELS:
            model = unloaded_model(self.subject.device, schedule, sampler, options)
            try:
                self.objective.check(model, _GEOMETRY)
            except VaderError as error:
                refusals.append(f"{schedule} model with {sampler}: {error}")
                continue
            return model
        raise Broken(f"it accepts none of the kit's models ({'; '.join(refusals)})")

    def _move_adapter(self) -> None:
        """Away from zero, so that every tensor of the adapter has a gradient."""
        rng = Randomness(seed=8, samples=(0,))
        with torch.no_grad():
            for name, parameter in self.tuning.parameters().items():
                drawn = rng.normal(name, tuple(parameter.shape), dtype=torch.float32)[0]
                parameter.add_(0.1 * drawn.to(parameter))

    def batch(self, micro: int = 0, step: int = 0) -> Batch:
        """The batch of one micro-step."""
        prompts = list(self.subject.prompts)
        if "videos" in self.objective.needs:
            prompts = _with_clips(prompts)
        samples = tuple(range(micro * len(prompts), (micro + 1) * len(prompts)))
        return Batch(prompts, _GEOMETRY, Randomness(5, step, micro, samples))

    def prepared(self, *micros: int, step: int = 0) -> list[Any]:
        """What the objective prepares for those micro-steps."""
        batches = [self.batch(micro, step) for micro in micros or (0,)]
        return self.objective.prepare(self.model, batches, self.processes)

    def backward(self, loss: Tensor, scale: float = 1.0) -> None:
        """Send a loss back, and note it."""
        self.sent.append(float(loss.detach()))
        (loss * scale).backward()

    def step(self, prepared: Any, update: int = 0, *, scale: float = 1.0) -> StepResult:
        """One step from no gradient at all."""
        self.sent = []
        for parameter in self.every_parameter.values():
            parameter.grad = None
        return self.objective.step(self.model, prepared, partial(self.backward, scale=scale), update)

    def gradients(self) -> dict[str, Tensor]:
        """The gradient of each trained tensor, zero where there is none."""
        return {
            name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
            for name, parameter in self.tuning.parameters().items()
        }

    def update(self) -> None:
        """A small step down the gradient."""
        with torch.no_grad():
            for name, gradient in self.gradients().items():
                self.tuning.parameters()[name].sub_(0.05 * gradient / (gradient.norm() + 1e-6))

    def train_step(self, step: int) -> float:
        """A whole optimizer step, as the trainer takes it; the sum of its losses."""
        losses = []
        prepared = self.prepared(0, 1, step=step)
        for update in range(self.objective.updates):
            for one in prepared:
                losses.append(float(self.step(one, update).loss))
                self.update()
            self.objective.after_update(self.model, step)
        return sum(losses)

    @cached_property
    def every_parameter(self) -> dict[str, nn.Parameter]:
        """Every parameter of the model, trained or frozen."""
        return {
            f"{part}.{name}": parameter
            for part, module in self.model.backbone.modules().items()
            for name, parameter in module.named_parameters()
        }


def unloaded_model(
    device: torch.device,
    schedule: str = "flow",
    sampler: str = "rectified_flow",
    options: Mapping[str, Any] | None = None,
    *,
    num_steps: int = STEPS,
) -> Model:
    """The kit's tiny model, not loaded, as ``check`` is given it."""
    config = TinyConfig.model_validate({"schedule": schedule})
    backbone = TinyBackbone(config, device=device, dtype=torch.float32)
    made = _sampler(sampler).make(dict(options or {}), device=device, dtype=torch.float32)
    return Model(backbone, made, Guidance(2.0), num_steps, _GEOMETRY)


@cache
def _sampler(name: str) -> Component:
    return load_registry().get("sampler", name)


OBJECTIVE = Contract("objective", ObjectiveSubject)
check_objective, objective_clauses = OBJECTIVE.check, OBJECTIVE.clauses
objective_subject = OBJECTIVE.subject


# -- the clauses ---------------------------------------------------------------------------------------------


@OBJECTIVE.clause
def announces(subject: ObjectiveSubject) -> str:
    """What it needs, how many updates a batch serves and how videos are made are known before all else."""
    objective: Objective = subject.make()
    needs = objective.needs
    expect(isinstance(needs, frozenset), f"needs is a {type(needs).__name__}, not a frozenset")
    strange = sorted(needs - NEEDS)
    expect(not strange, f"it needs {strange}, which nothing provides (known: {', '.join(sorted(NEEDS))})")
    expect(type(objective.updates) is int, f"updates is {objective.updates!r}, not a whole number")
    expect(objective.updates >= 1, f"updates is {objective.updates}: a batch serves at least one")
    expect(isinstance(objective.segments, Segments), f"segments is {objective.segments!r}")
    wanted = "videos" if "videos" in needs else "prompts"
    expect(objective.batch_kind == wanted, f"batch_kind is {objective.batch_kind!r}, not {wanted!r}")
    return f"needs {', '.join(sorted(needs)) or 'nothing'}; {objective.updates} updates"


@OBJECTIVE.clause
def checks(subject: ObjectiveSubject) -> str:
    """`check` accepts or refuses with a message, whatever steps and size; neither it nor `defaults` loads."""
    refused = []
    for schedule, sampler, options in MODELS:
        for steps in (1, 2, 25):
            for geometry in (_GEOMETRY, Geometry(8, 8, 1, 8.0), Geometry(64, 32, 17, 8.0)):
                model = unloaded_model(subject.device, schedule, sampler, options, num_steps=steps)
                objective: Objective = subject.make()
                given = objective.defaults(model.backbone, steps)
                strange = sorted(set(given) - set(subject.component.config.model_fields))
                expect(not strange, f"defaults names {strange}, which are none of its options")
                try:
                    objective.check(model, geometry)
                except VaderError as error:
                    expect(str(error).strip(), f"{steps} steps, {geometry}: refused without a message")
                    refused.append(str(error))
                loaded = hasattr(model.backbone, "denoiser")
                expect(not loaded, "the backbone was loaded")
    return f"{len(refused)} of 18 refused" + (f", e.g. {refused[0]}" if refused else "")


@OBJECTIVE.clause
def preparation(subject: ObjectiveSubject) -> str:
    """`prepare` gives one value per micro-step, records no graph and leaves what learns as it was."""
    place = subject.place()
    before = place.tuning.snapshot()
    prepared = place.prepared(0, 1)
    expect(isinstance(prepared, list), f"it returned a {type(prepared).__name__}, not a list")
    expect(len(prepared) == 2, f"it returned {len(prepared)} values for 2 micro-steps")
    graphs = [tensor for one in prepared for tensor in _tensors(one) if tensor.requires_grad]
    expect(not graphs, f"{len(graphs)} of the tensors it returned carry a graph")
    sent = [name for name, one in place.every_parameter.items() if one.grad is not None]
    expect(not sent, f"a gradient was sent to {', '.join(sent[:3])}")
    _expect_same(place.tuning.snapshot(), before, "what learns was changed by `prepare`")
    return f"{sum(1 for one in prepared for _ in _tensors(one))} tensors without a graph"


@OBJECTIVE.clause
def gradient(subject: ObjectiveSubject) -> str:
    """A step sends a finite gradient into all that learns, and nowhere else, and moves nothing itself."""
    place = subject.place()
    before = {name: one.detach().clone() for name, one in place.every_parameter.items()}
    place.step(place.prepared()[0])
    trained = {id(parameter) for parameter in place.tuning.parameters().values()}
    for name, found in place.gradients().items():
        expect_tensor(found, tuple(found.shape), f"the gradient of {name}")
        expect(found.any(), f"no gradient reaches {name}")
    for name, parameter in place.every_parameter.items():
        alone = id(parameter) in trained
        expect(alone or parameter.grad is None, f"a gradient reaches {name}, which is frozen")
        expect(alone == parameter.requires_grad, f"{name} was {'frozen' if alone else 'thawed'}")
        expect(torch.equal(parameter.detach(), before[name]), f"{name} was moved by the step itself")
    norm = torch.stack([found.norm() for found in place.gradients().values()]).norm()
    return f"{len(trained)} tensors, norm {float(norm):.3g}"


@OBJECTIVE.clause
def sending_back(subject: ObjectiveSubject) -> str:
    """All that is sent back goes through `backward`, which may scale it, and the gradient with it."""
    place = subject.place()
    place.step(place.prepared()[0])
    expect(place.sent, "`backward` was never called")
    once = place.gradients()
    again = subject.place()
    again.step(again.prepared()[0], scale=4.0)
    for name, found in again.gradients().items():
        expect_close(found / 4, once[name], f"a quarter of the gradient of {name} at 4 times the loss")
    return f"{len(place.sent)} passes"


@OBJECTIVE.clause
def outside_autocast(subject: ObjectiveSubject) -> str:
    """`backward` is called outside autocast, whatever the precision of the forward pass."""
    place = subject.place()
    place.model.autocast = partial(torch.autocast, subject.device.type, dtype=torch.bfloat16)
    within: list[bool] = []
    send = place.backward

    def backward(loss: Tensor, scale: float = 1.0) -> None:
        within.append(torch.is_autocast_enabled(subject.device.type))
        send(loss, scale)

    place.backward = backward  # type: ignore[method-assign]  # to see where it is called
    result = place.step(place.prepared()[0])
    expect(not any(within), "`backward` was called within autocast")
    expect(torch.isfinite(result.loss).all(), f"in bfloat16 the loss is {result.loss}")
    return f"bfloat16 forward, {len(within)} passes outside"


@OBJECTIVE.clause
def results(subject: ObjectiveSubject) -> str:
    """It reports one finite loss, and scores and figures per sample (or one for all), without a graph."""
    place = subject.place()
    result = place.step(place.prepared()[0])
    expect(isinstance(result, StepResult), f"a step returned a {type(result).__name__}")
    expect_tensor(result.loss, (), "the loss")
    size = len(subject.prompts)  # an objective may make several samples of each prompt
    for name, value in {**result.scores, **result.figures}.items():
        shape = tuple(value.shape) if isinstance(value, Tensor) else None
        alone = shape == () and name in result.figures
        per_sample = shape is not None and len(shape) == 1 and shape[0] > 0 and shape[0] % size == 0
        expect(alone or per_sample, f"{name!r} has shape {shape}: {size} samples were asked for")
        expect(bool(torch.isfinite(value).all()), f"{name!r} is not finite")
    held = [result.loss, *result.scores.values(), *result.figures.values()]
    expect(not any(value.requires_grad for value in held), "what it reports carries a graph")
    odd = [i for i in result.steps if not 0 <= i < STEPS]
    expect(not odd, f"it reports differentiated steps {odd} of {STEPS}")
    expect(result.reward_queries >= 0, f"it reports {result.reward_queries} reward queries")
    told = float(result.loss)
    return f"loss {told:.4g}; {', '.join([*result.scores, *result.figures]) or 'no figures'}"


@OBJECTIVE.clause
def determinism(subject: ObjectiveSubject) -> str:
    """The same batch and rng give the same loss and gradient; no global random state is read or changed."""
    place = subject.place()
    with reseeded(1):
        first = place.step(place.prepared()[0])
        wanted = place.gradients()
    with reseeded(2):
        again = subject.place()
        with global_state_untouched():
            second = again.step(again.prepared()[0])
    losses = float(first.loss.detach()), float(second.loss.detach())
    expect(losses[0] == losses[1], f"loss {losses[0]:.7g}, then {losses[1]:.7g}")
    _expect_same(again.gradients(), wanted, "the gradient changes with the global random state")
    return f"loss {losses[0]:.7g} twice"


@OBJECTIVE.clause
def updates(subject: ObjectiveSubject) -> str:
    """Each of its updates sends a gradient, and `after_update` moves nothing that learns."""
    place = subject.place()
    prepared = place.prepared()
    for update in range(place.objective.updates):
        place.step(prepared[0], update)
        expect(any(found.any() for found in place.gradients().values()), f"update {update} sends no gradient")
        place.update()
        before = place.tuning.snapshot()
        place.objective.after_update(place.model, 0)
        _expect_same(place.tuning.snapshot(), before, f"`after_update` {update} changed what learns")
    return f"{place.objective.updates} of {place.objective.updates}"


@OBJECTIVE.clause
def state(subject: ObjectiveSubject) -> str:
    """What `save` writes and `load` reads brings training back exactly: the next losses are the same."""
    place = subject.place()
    for step in range(2):
        place.train_step(step)
    with tempfile.TemporaryDirectory() as folder:
        full, absent = Path(folder) / "full", Path(folder) / "absent"
        full.mkdir()
        place.objective.save(full)
        names = sorted(path.name for path in full.rglob("*"))
        other = subject.place()
        other.tuning.restore(place.tuning.snapshot())
        other.objective.load(full if names else absent)
    wanted = [place.train_step(step) for step in (2, 3)]
    found = [other.train_step(step) for step in (2, 3)]
    expect(found == wanted, f"after loading the losses are {found}, not {wanted}")
    return f"{', '.join(names) or 'no files'}; losses equal to the bit"


@OBJECTIVE.clause
def model_unchanged(subject: ObjectiveSubject) -> str:
    """A step leaves the model as it was: same predictions, same modes, no lever and no adapter left on."""
    place = subject.place()
    wanted, modes = _answer(place), _modes(place)
    prepared = place.prepared()
    for update in range(place.objective.updates):
        place.step(prepared[0], update)
        place.objective.after_update(place.model, 0)
    changed = sorted(name for name, mode in _modes(place).items() if mode != modes.get(name))
    expect(not changed, f"after a step, other modes are left on: {', '.join(changed[:3])}")
    expect(torch.equal(_answer(place), wanted), "after a step the model predicts something else")
    expect(torch.is_grad_enabled(), "after a step no graph is recorded any more")
    return f"{len(modes)} modes and a prediction"


# -- what the clauses work with ------------------------------------------------------------------------------


def _with_clips(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Each prompt with a clip that is read already, another for each."""
    films = moving_patterns(len(prompts), _GEOMETRY.num_frames, _GEOMETRY.height, _GEOMETRY.width)
    return [
        prompt if prompt.video is not None else replace(prompt, video=Clip(Path(f"{index}.mp4"), pixels=film))
        for index, (prompt, film) in enumerate(zip(prompts, films, strict=True))
    ]


@torch.no_grad()
def _answer(place: Place) -> Tensor:
    model, batch = place.model, place.batch()
    conditioning = model.condition(batch.prompts, batch.geometry, batch.rng)
    latents = model.backbone.initial_noise(len(batch), batch.geometry, batch.rng)
    answer: Tensor = model.predict(latents, model.plan(batch.geometry).timesteps[0], conditioning).value
    return answer


def _modes(place: Place) -> dict[str, object]:
    modes: dict[str, object] = {"gradient checkpointing": place.model.backbone.gradient_checkpointing}
    for part, module in place.model.backbone.modules().items():
        modes |= {f"{part}.{name}.training": inner.training for name, inner in module.named_modules()}
    return modes


def _expect_same(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], otherwise: str) -> None:
    different = [name for name, value in wanted.items() if not torch.equal(found[name], value)]
    expect(not different, f"{otherwise}: {', '.join(different[:3])}")


def _tensors(value: object) -> Iterator[Tensor]:
    """Every tensor in a value, through lists, mappings and dataclasses."""
    if isinstance(value, Tensor):
        yield value
        return
    if isinstance(value, Mapping):
        held: list[object] = list(value.values())
    elif isinstance(value, list | tuple | set | frozenset):
        held = list(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        held = [getattr(value, field.name) for field in dataclasses.fields(value)]
    else:
        return
    for one in held:
        yield from _tensors(one)
