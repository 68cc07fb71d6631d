"""The contract of a backbone, clause by clause."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vader_core.backbone import Backbone
from vader_core.conditioning import Conditioning
from vader_core.errors import VaderError
from vader_core.geometry import Geometry, GeometryRequest
from vader_core.lora.adapter import LoraSettings, adapter_parameters, attach_lora, named_by
from vader_core.nn.feature_cache import FeatureCache
from vader_core.nn.precision import wide
from vader_core.performance.swap_blocks import SwappedBlocks
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness, derive_seed
from vader_core.schedule import RectifiedFlow, Schedule, VarianceExploding, VariancePreserving
from vader_core.testing.conformance import (
    ROUNDING,
    Contract,
    Subject,
    expect,
    expect_close,
    expect_refused,
    expect_tensor,
    global_state_untouched,
    relative,
    reseeded,
)
from vader_core.text import Text

#: Largest relative difference between a bfloat16 and a float32 prediction: 8 bits of mantissa, many layers.
BF16 = 0.15

_PREDICTIONS = {
    VariancePreserving: ("epsilon", "v"),
    VarianceExploding: ("epsilon", "v"),
    RectifiedFlow: ("velocity",),
}

_PROMPTS = (Prompt("a red boat on a river"), Prompt("two dogs run over a field of snow", negative="grey"))


@dataclass
class BackboneSubject(Subject):
    """A backbone under examination; one loaded instance is kept for all clauses.

    Args:
        geometry: The size of video to use; the backbone's default by default.
        prompts: What it is asked for; two of them.
    """

    flags: ClassVar[tuple[str, ...]] = ("height", "width", "num_frames")

    geometry: GeometryRequest = field(default_factory=GeometryRequest)
    prompts: Sequence[Prompt] = _PROMPTS
    _loaded: Backbone | None = None

    @classmethod
    def settings(cls, flags: Mapping[str, Any]) -> dict[str, Any]:
        """The size of video that the command line asks for."""
        return {"geometry": GeometryRequest(flags["height"], flags["width"], flags["num_frames"])}

    def loaded(self) -> Backbone:
        """The loaded float32 instance, shared by the clauses: not to be changed."""
        if self._loaded is None:
            self._loaded = self.make()
            self._loaded.load()
        return self._loaded

    def fresh(self, dtype: torch.dtype = torch.float32) -> Backbone:
        """A loaded instance of its own; the shared one is let go, so that one at a time is held."""
        self._loaded = None
        backbone: Backbone = self.make(dtype)
        backbone.load()
        return backbone


BACKBONE = Contract("backbone", BackboneSubject)
check_backbone, backbone_clauses, backbone_subject = BACKBONE.check, BACKBONE.clauses, BACKBONE.subject


# -- what the clauses work with ------------------------------------------------------------------------------


def _prompts(subject: BackboneSubject, backbone: Backbone) -> tuple[Prompt, ...]:
    """The kit's prompts, without the negative one where no text is read."""
    if backbone.reads_text:
        return tuple(subject.prompts)
    return tuple(replace(prompt, negative=None) for prompt in subject.prompts)


@dataclass(frozen=True)
class Case:
    """Everything one call of the model takes, for a batch of two."""

    backbone: Backbone
    geometry: Geometry
    rng: Randomness
    text: Text
    conditioning: Conditioning
    latents: Tensor
    timestep: Tensor

    def predict(self) -> Tensor:
        """The prediction for the whole batch."""
        conditional = self.conditioning.conditional_branch
        return self.backbone.predict(self.latents, self.timestep, conditional).value

    def rows(self, index: slice) -> Case:
        """The same case for some of its samples."""
        return replace(
            self,
            latents=self.latents[index],
            timestep=self.timestep[index],
            conditioning=self.conditioning[index],
        )


def _case(
    subject: BackboneSubject,
    backbone: Backbone | None = None,
    *,
    prompts: Sequence[Prompt] | None = None,
    dtype: torch.dtype | None = None,
) -> Case:
    backbone = backbone or subject.loaded()
    prompts = prompts or _prompts(subject, backbone)
    geometry = backbone.resolve_geometry(subject.geometry)
    rng = Randomness(seed=5, samples=tuple(range(len(prompts))))
    text = backbone.encode_text(prompts)
    picture = _picture(backbone, geometry, rng) if backbone.needs_image else None
    conditioning = backbone.condition(text, prompts, geometry, rng, image=picture)
    latents = backbone.initial_noise(len(prompts), geometry, rng)
    if dtype is not None:
        latents = latents.to(dtype)
    timestep = torch.full((len(prompts),), late_timestep(backbone.schedule), device=latents.device)
    return Case(backbone, geometry, rng, text, conditioning, latents, timestep.to(latents.dtype))


def _picture(backbone: Backbone, geometry: Geometry, rng: Randomness) -> Tensor:
    shape = (3, geometry.height, geometry.width)
    return rng.normal("picture", shape, device=backbone.device, dtype=wide(backbone.dtype)).sigmoid()


def late_timestep(schedule: Schedule, share: float = 0.3) -> float:
    """What the model is told when ``share`` of the noise levels lie below, in its own units."""
    if isinstance(schedule, VarianceExploding):
        low, high = math.log(schedule.sigma_min), math.log(schedule.sigma_max)
        return 0.25 * (low + share * (high - low))
    if isinstance(schedule, VariancePreserving):
        return float(int(share * (schedule.num_train_timesteps - 1)))
    return share * schedule.num_train_timesteps


def _parameters(backbone: Backbone) -> dict[str, nn.Parameter]:
    return {
        f"{role}.{name}": parameter
        for role, module in backbone.modules().items()
        for name, parameter in module.named_parameters()
    }


# -- known before the weights are ----------------------------------------------------------------------------


@BACKBONE.clause
def cheap_constructor(subject: BackboneSubject) -> str:
    """The constructor loads nothing, yet defaults, schedule, targets and geometry are known at once."""
    with global_state_untouched():
        backbone: Backbone = subject.make()
    expect(not hasattr(backbone, "denoiser"), "the constructor already made `denoiser`: leave it to load()")
    held = [name for name, value in vars(backbone).items() if isinstance(value, nn.Module)]
    expect(not held, f"the constructor already made modules: {', '.join(held)}")
    shape = backbone.latent_shape(backbone.resolve_geometry(subject.geometry))
    return f"latents {shape} before any weight is read"


@BACKBONE.clause
def defaults(subject: BackboneSubject) -> str:
    """The defaults are a geometry that the model can make, and settings that a run takes."""
    from vader_core.method.gradient import parse_gradient

    backbone: Backbone = subject.make()
    given = backbone.defaults
    backbone.validate(given.geometry)
    expect(given.num_steps >= 1, f"num_steps={given.num_steps}")
    scales = given.guidance_scale if isinstance(given.guidance_scale, tuple) else (given.guidance_scale,)
    expect(all(math.isfinite(scale) for scale in scales), f"guidance_scale={given.guidance_scale}")
    expect(given.precision in ("fp32", "bf16", "fp16"), f"precision={given.precision!r}")
    expect(given.sampler, "no sampler is named")
    parse_gradient(given.gradient)
    return f"{given.geometry}; {given.num_steps} steps of {given.sampler}, guidance {given.guidance_scale}"


@BACKBONE.clause
def geometry(subject: BackboneSubject) -> str:
    """A geometry that the model cannot make is refused with a message, and latents have four whole sides."""
    backbone: Backbone = subject.make()
    good = backbone.resolve_geometry(subject.geometry)
    again = GeometryRequest(good.height, good.width, good.num_frames, good.fps)
    twice = backbone.resolve_geometry(again)
    expect(twice == good, f"{good}, resolved again, becomes {twice}")
    for wrong in (
        GeometryRequest(height=0),
        GeometryRequest(width=-8),
        GeometryRequest(num_frames=0),
        GeometryRequest(num_frames="soon"),
        GeometryRequest(fps=-1.0),
    ):
        expect_refused(partial(backbone.resolve_geometry, wrong), str(wrong))
    shape = backbone.latent_shape(good)
    whole = len(shape) == 4 and all(isinstance(side, int) and side > 0 for side in shape)
    expect(whole, f"latent_shape gave {shape!r} for {good}")
    message = expect_refused(partial(backbone.resolve_geometry, GeometryRequest(height=0)), "height=0")
    return f"{good} -> latents {shape}; height=0: {message}"


@BACKBONE.clause
def schedule(subject: BackboneSubject) -> str:
    """The schedule is one of the three kinds, with noise that grows and a prediction that fits its kind."""
    found: Schedule = subject.make().schedule
    allowed: tuple[str, ...] = _PREDICTIONS.get(type(found), ())
    expect(allowed, f"schedule is a {type(found).__name__}")
    expect(found.prediction_type in allowed, f"prediction_type={found.prediction_type!r}, not of {allowed}")
    if isinstance(found, VariancePreserving):
        alphas = found.alphas_cumprod
        expect(alphas.dtype == torch.float64, f"alphas_cumprod has dtype {alphas.dtype}, not float64")
        expect(bool((alphas[1:] < alphas[:-1]).all()), "alphas_cumprod does not fall strictly")
        expect(float(alphas[-1]) >= 0 and float(alphas[0]) <= 1, "alphas_cumprod leaves [0, 1]")
        expect(found.scale is None or len(found.scale) == len(alphas), "scale has another length")
    elif isinstance(found, VarianceExploding):
        expect(0 < found.sigma_min < found.sigma_max, f"sigma {found.sigma_min} to {found.sigma_max}")
    elif isinstance(found, RectifiedFlow):
        expect(found.velocity_sign in (1, -1), f"velocity_sign={found.velocity_sign}")
        expect(found.num_train_timesteps > 0, f"num_train_timesteps={found.num_train_timesteps}")
    return f"{type(found).__name__}, predicts {found.prediction_type}"


@BACKBONE.clause
def meta_denoiser(subject: BackboneSubject) -> str:
    """`build_denoiser` builds on the meta device what `load` loads: same names, same shapes, LoRA and all."""
    backbone: Backbone = subject.make()
    with torch.device("meta"):
        bare = backbone.build_denoiser()
    shapes = {name: tuple(value.shape) for name, value in bare.named_parameters()}
    real = [name for name, value in bare.named_parameters() if not value.is_meta]
    expect(not real, f"{len(real)} parameters are not on the meta device, first {real[:1]}")
    loaded = {name: tuple(v.shape) for name, v in subject.loaded().denoiser.named_parameters()}
    odd = sorted(shapes.items() ^ loaded.items())
    expect(not odd, f"{len(odd)} parameters differ between build_denoiser and load, first {odd[:2]}")
    attached = attach_lora(bare, LoraSettings(rank=2, targets=backbone.lora_targets))
    count = sum(math.prod(shape) for shape in shapes.values())
    return f"{count:,} parameters; rank 2 adds {attached.parameters:,} in {len(attached.modules)} modules"


# -- loaded --------------------------------------------------------------------------------------------------


@BACKBONE.clause
def loading(subject: BackboneSubject) -> str:
    """`load` leaves every module frozen, in eval mode, on the device, and touches no global random state."""
    with global_state_untouched():
        backbone = subject.fresh()
    expect(backbone.modules().get("denoiser") is backbone.denoiser, "modules()['denoiser'] is not `denoiser`")
    parameters = _parameters(backbone)
    free = [name for name, value in parameters.items() if value.requires_grad]
    expect(not free, f"{len(free)} parameters are not frozen, first {free[:1]}")
    training = [role for role, module in backbone.modules().items() if module.training]
    expect(not training, f"in training mode: {', '.join(training)}")
    away = [name for name, value in parameters.items() if value.device.type != subject.device.type]
    expect(not away, f"{len(away)} parameters are not on {subject.device}, first {away[:1]}")
    bad = [name for name, value in parameters.items() if not torch.isfinite(value).all()]
    expect(not bad, f"{len(bad)} parameters are not finite, first {bad[:1]}")
    count = sum(value.numel() for value in parameters.values())
    return f"{count:,} parameters in {', '.join(backbone.modules())}"


@BACKBONE.clause
def lora_targets(subject: BackboneSubject) -> str:
    """Every LoRA target names at least one linear or convolution of the denoiser."""
    backbone: Backbone = subject.make()
    expect(backbone.lora_targets, "there are no targets")
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    with torch.device("meta"):
        bare = backbone.build_denoiser()
    names = [name for name, module in bare.named_modules() if isinstance(module, kinds)]
    for target in backbone.lora_targets:
        hits = [name for name in names if named_by(target, name)]
        expect(hits, f"target {target!r} names no module")
    return ", ".join(backbone.lora_targets)


@BACKBONE.clause
def text(subject: BackboneSubject) -> str:
    """Texts, where any are read, become tensors without a graph, batch axis first, each by its words."""
    backbone = subject.loaded()
    prompts = _prompts(subject, backbone)
    encoded = backbone.encode_text(prompts)
    expect(encoded.positive.keys() == encoded.negative.keys(), "the two sides have different names")
    for name, value in encoded.positive.items():
        expect(len(value) == 2, f"{name} has {len(value)} rows for 2 prompts")
        expect(not value.requires_grad, f"{name} carries a graph")
    if not backbone.reads_text:
        return "reads no text"
    rows = backbone.encode_texts([prompt.text for prompt in prompts])
    other = backbone.encode_texts([prompts[1].text])
    for name, value in rows.items():
        if value.is_floating_point():
            expect_close(value[1], other[name][0], f"{name} of a text alone and beside another")
    differs = any(not torch.equal(value[0], value[1]) for value in rows.values())
    expect(differs, f"{prompts[0].text!r} and {prompts[1].text!r} have one encoding")
    shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in encoded.positive.items())
    return shapes


@BACKBONE.clause
def conditioning(subject: BackboneSubject) -> str:
    """The conditioning has the batch axis first, both branches alike, and survives cutting and joining."""
    case = _case(subject)
    whole = case.conditioning
    expect(len(whole) == 2, f"its length is {len(whole)} for 2 prompts")
    branches = [whole.tensors] + ([whole.unconditional] if whole.unconditional is not None else [])
    for branch in branches:
        for name, value in branch.items():
            expect(len(value) == 2, f"{name} has {len(value)} rows for 2 prompts")
            mine, first = tuple(value.shape), tuple(whole.tensors[name].shape)
            expect(mine == first, f"{name} has shape {first} in one branch and {mine} in the other")
            expect(value.device.type == subject.device.type, f"{name} is on {value.device}")
    if whole.unconditional is not None:
        expect(whole.unconditional.keys() == whole.tensors.keys(), "the branches have different names")
    joined = Conditioning.cat([whole[0:1], whole[1:2]])
    for name, value in joined.tensors.items():
        expect(torch.equal(value, whole.tensors[name]), f"{name} changed by cutting and joining")
    sides = "with" if whole.unconditional is not None else "without"
    return f"{', '.join(whole.tensors) or 'nothing'}; {sides} an unconditional branch"


@BACKBONE.clause
def noise(subject: BackboneSubject) -> str:
    """Initial noise is standard normal, each sample's by its own global index, whatever its batch."""
    backbone = subject.loaded()
    size = backbone.resolve_geometry(subject.geometry)
    shape = backbone.latent_shape(size)
    with global_state_untouched():
        both = backbone.initial_noise(2, size, Randomness(seed=5, samples=(4, 9)))
    expect_tensor(both, (2, *shape), "the noise", dtype=torch.float32)
    alone = backbone.initial_noise(1, size, Randomness(seed=5, samples=(9,)))
    expect(torch.equal(both[1], alone[0]), "sample 9 has other noise in a batch of two than alone")
    expect(not torch.equal(both[0], both[1]), "samples 4 and 9 have the same noise")
    mean, std = float(both.mean()), float(both.std())
    slack = 6 / math.sqrt(both.numel())
    expect(abs(mean) < slack and abs(std - 1) < slack, f"mean {mean:.3f}, standard deviation {std:.3f}")
    return f"{tuple(both.shape)}, mean {mean:.3f}, standard deviation {std:.3f}"


@BACKBONE.clause
@torch.no_grad()
def prediction(subject: BackboneSubject) -> str:
    """A prediction has the latents' shape and dtype, is finite, and hears latents, time and text."""
    case = _case(subject)
    shape = tuple(case.latents.shape)
    base = expect_tensor(case.predict(), shape, "the prediction", dtype=case.latents.dtype)
    expect(float(base.abs().max()) > 0, "the prediction is zero everywhere")
    swapped = replace(case, conditioning=Conditioning.cat([case.conditioning[1:2], case.conditioning[0:1]]))
    earlier = torch.full_like(case.timestep, late_timestep(case.backbone.schedule, 0.9))
    heard = {
        "latents": relative(replace(case, latents=case.latents.flip(-1)).predict(), base),
        "timestep": relative(replace(case, timestep=earlier).predict(), base),
        "conditioning": relative(swapped.predict(), base),
    }
    for name, change in heard.items():
        expect(change > 0, f"another {name} changes nothing")
    return "changes by " + ", ".join(f"{change:.2g} with the {name}" for name, change in heard.items())


@BACKBONE.clause
@torch.no_grad()
def determinism(subject: BackboneSubject) -> str:
    """Equal arguments give equal predictions and videos; no global random state is read or changed."""
    with reseeded(1):
        first = _case(subject)
        one, video = first.predict(), first.backbone.decode(first.latents, first.geometry)
    with reseeded(2):
        second = _case(subject)
        two, again = second.predict(), second.backbone.decode(second.latents, second.geometry)
    expect(torch.equal(first.latents, second.latents), "the noise changes with the global random state")
    off = max(relative(two, one), relative(again, video))
    allowed = 0.0 if subject.device.type == "cpu" else ROUNDING_ON_DEVICE
    expect(off <= allowed, f"repeated calls differ by {off:.2g}")
    with global_state_untouched():
        _case(subject).predict()
    return "bit for bit" if off == 0 else f"to {off:.1g}"


#: Atomic additions on an accelerator may come in another order.
ROUNDING_ON_DEVICE = 1e-5


@BACKBONE.clause
@torch.no_grad()
def batch_independence(subject: BackboneSubject) -> str:
    """A sample's prediction and video do not depend on the other samples of its batch."""
    case = _case(subject)
    whole = case.predict()
    video = case.backbone.decode(case.latents, case.geometry)
    worst = 0.0
    for row in (slice(0, 1), slice(1, 2)):
        part = case.rows(row)
        what = f"of sample {row.start} alone"
        worst = max(worst, expect_close(part.predict(), whole[row], f"prediction {what}"))
        alone = part.backbone.decode(part.latents, part.geometry)
        worst = max(worst, expect_close(alone, video[row], f"video {what}"))
    return f"alone or together: {worst:.1g}"


@BACKBONE.clause
@torch.no_grad()
def inputs_unchanged(subject: BackboneSubject) -> str:
    """`predict` and `decode` leave their arguments as they were."""
    case = _case(subject)
    tensors = {**case.conditioning.tensors, "latents": case.latents, "timestep": case.timestep}
    before = {name: value.clone() for name, value in tensors.items()}
    case.predict()
    case.backbone.decode(case.latents, case.geometry)
    for name, value in tensors.items():
        expect(torch.equal(value, before[name]), f"{name} was changed in place")
    return ", ".join(tensors)


@BACKBONE.clause
@torch.no_grad()
def feature_cache(subject: BackboneSubject) -> str:
    """Where deep features are kept, reused ones give the same for the same input, each branch its own."""
    case = _case(subject)
    backbone = case.backbone
    if not backbone.caches_features:
        return "keeps none"
    whole, other = case.predict(), replace(case, latents=case.latents.flip(-1))
    cache = FeatureCache()
    both = ("first", "second")
    with cache.at(0, both, 2):
        expect_close(case.predict(), whole, "a prediction that keeps features")
    with cache.at(1, both[1:], 2):
        again = case.rows(slice(1, 2)).predict()
        expect_close(again, whole[1:], "one branch alone from features kept of both")
    with cache.at(1, both, 2):
        reused = relative(other.predict(), whole)
    with cache.at(2, both, 2):
        moved = relative(other.predict(), whole)
    expect(reused != moved, "other latents give the same with kept features as without: none were reused")
    return f"other latents move the prediction by {reused:.2g} with kept features, by {moved:.2g} without"


@BACKBONE.clause
def gradient_to_latents(subject: BackboneSubject) -> str:
    """The gradient flows back through `predict` and `decode` to the latents, each sample's to its own."""
    case = _case(subject)
    sizes = []
    for name in ("predict", "decode"):
        latents = case.latents.clone().requires_grad_(True)
        if name == "predict":
            out = replace(case, latents=latents).predict()
        else:
            out = case.backbone.decode(latents, case.geometry)
        expect(out.requires_grad, f"{name} cuts the graph: its result needs no gradient")
        (gradient,) = torch.autograd.grad(_energy(out[:1]), latents, allow_unused=True)
        if gradient is None:
            expect(False, f"{name}: no gradient reaches the latents")
            continue
        expect(bool(torch.isfinite(gradient).all()), f"{name}: the gradient is not finite")
        mine, other = float(gradient[0].norm()), float(gradient[1].norm())
        expect(mine > 0, f"{name}: the gradient at the latents is zero")
        expect(other <= 1e-6 * mine, f"{name}: sample 0's gradient reaches sample 1 ({other:.2g})")
        sizes.append(f"{name} {mine:.2g}")
    return ", ".join(sizes)


def _energy(out: Tensor) -> Tensor:
    weights = torch.linspace(-1, 1, out.numel(), device=out.device, dtype=out.dtype).view_as(out)
    return (out * weights).mean() + (out - 0.5).square().mean()


def _lora_gradients(
    subject: BackboneSubject, *, checkpointing: bool = False, backbone: Backbone | None = None
) -> tuple[Backbone, dict[str, Tensor]]:
    """The LoRA's gradients of predict, then decode, with neither half of the LoRA at zero."""
    if backbone is None:
        backbone = subject.fresh()
        attach_lora(backbone.denoiser, LoraSettings(rank=2, alpha=2.0, targets=backbone.lora_targets))
        for name, parameter in adapter_parameters(backbone.denoiser).items():
            drawn = torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(derive_seed("kit", name))
            )
            parameter.data.copy_(drawn * 0.3 / math.sqrt(parameter[0].numel()))
    for parameter in _parameters(backbone).values():
        parameter.grad = None
    case = _case(subject, backbone)
    with backbone.checkpointing(checkpointing):
        video = backbone.decode(case.predict(), case.geometry)
        _energy(video).backward()
    gradients = {}
    for name, parameter in adapter_parameters(backbone.denoiser).items():
        if parameter.grad is None:
            expect(False, f"no gradient reaches {name}")
            continue
        gradients[name] = parameter.grad.detach().clone()
    return backbone, gradients


@BACKBONE.clause
def gradient_to_lora(subject: BackboneSubject) -> str:
    """The gradient reaches the LoRA, all of it, and only the LoRA."""
    backbone, gradients = _lora_gradients(subject)
    adapter = {id(parameter) for parameter in adapter_parameters(backbone.denoiser).values()}
    reached = [
        name
        for name, parameter in _parameters(backbone).items()
        if id(parameter) not in adapter and (parameter.requires_grad or parameter.grad is not None)
    ]
    expect(not reached, f"{len(reached)} base parameters are trained too, first {reached[:1]}")
    bad = [name for name, value in gradients.items() if not torch.isfinite(value).all()]
    expect(not bad, f"{len(bad)} gradients are not finite, first {bad[:1]}")
    still = [name for name, value in gradients.items() if not value.any()]
    expect(len(still) < len(gradients), "every gradient is zero")
    norm = math.sqrt(sum(float(value.double().square().sum()) for value in gradients.values()))
    zeros = f", {len(still)} of them zero (first {still[0]})" if still else ""
    return f"{len(gradients)} tensors{zeros}, norm {norm:.3g}"


@BACKBONE.clause
def checkpointing(subject: BackboneSubject) -> str:
    """Gradient checkpointing keeps fewer activations and changes no gradient beyond rounding."""
    backbone, plain = _lora_gradients(subject)
    _, recomputed = _lora_gradients(subject, checkpointing=True, backbone=backbone)
    largest = max(float(value.abs().max()) for value in plain.values())
    off = max(float((recomputed[name] - value).abs().max()) for name, value in plain.items())
    found = f"gradients differ by {off:.2g} (the largest is {largest:.2g})"
    expect(off <= ROUNDING_OF_GRADIENTS * largest, found)
    kept = {on: _kept_bytes(subject, backbone, on) for on in (False, True)}
    expect(kept[True] < kept[False], f"{kept[False]:,} bytes are kept without it and {kept[True]:,} with it")
    return f"{found}; keeps {kept[True] / kept[False]:.0%} of the activations"


def _kept_bytes(subject: BackboneSubject, backbone: Backbone, on: bool) -> int:
    """Bytes of activations that a call of the denoiser keeps for the backward pass."""
    kept: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return value

    case = _case(subject, backbone)
    with backbone.checkpointing(on), torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        case.predict()
    return sum(kept.values())


#: Largest difference of gradients in float32, as a share of the largest one.
ROUNDING_OF_GRADIENTS = 1e-4


@BACKBONE.clause
def swapping(subject: BackboneSubject) -> str:
    """Blocks whose weights lie elsewhere between uses, where it names any, give the same gradients."""
    backbone, plain = _lora_gradients(subject, checkpointing=True)
    blocks = backbone.blocks()
    if not blocks:
        return "names none"
    parts = [id(part) for block in blocks for part in block.modules()]
    expect(len(parts) == len(set(parts)), "one of its swappable blocks lies within another")
    swapped = SwappedBlocks(blocks, torch.device("cpu"))
    for resting in swapped.resting:
        resting.blank()
    _, found = _lora_gradients(subject, checkpointing=True, backbone=backbone)
    largest = max(float(value.abs().max()) for value in plain.values())
    off = max(float((found[name] - value).abs().max()) for name, value in plain.items())
    said = f"gradients differ by {off:.2g} (the largest is {largest:.2g})"
    expect(off <= ROUNDING_OF_GRADIENTS * largest, said)  # not where they are not numbers
    return f"{len(blocks)} blocks; {said}"


@BACKBONE.clause
@torch.no_grad()
def decoding(subject: BackboneSubject) -> str:
    """The video is [B, F, 3, *video_size] in the latents' dtype, finite, nominally in [0, 1], not clamped."""
    case = _case(subject)
    size = case.geometry
    height, width = case.backbone.video_size(size)
    expect(
        size.height // 2 < height <= size.height and size.width // 2 < width <= size.width,
        f"video_size is {height}x{width}, which is not {size.height}x{size.width} rounded down",
    )
    video = case.backbone.decode(case.latents, size)
    shape = (2, size.num_frames, 3, height, width)
    expect_tensor(video, shape, "the video", dtype=case.latents.dtype)
    expect(float(video.std()) > 0, f"the video is {float(video.mean()):.3g} everywhere")
    wild = case.backbone.decode(4 * case.latents, size)
    ends = float(((wild == 0) | (wild == 1)).float().mean())
    expect(ends < CLAMPED, f"{ends:.0%} of the pixels of a wild video are exactly 0 or 1: it is clamped")
    return f"{shape}, {float(video.min()):.2f} to {float(video.max()):.2f}"


#: Share of pixels at exactly 0 or 1 from which a decoder must be clamping.
CLAMPED = 0.01


@BACKBONE.clause
@torch.no_grad()
def chosen_frames(subject: BackboneSubject) -> str:
    """Chosen frames come in the order asked for, and equal the full decode's where the backbone says so."""
    case = _case(subject)
    count = case.geometry.num_frames
    full = case.backbone.decode(case.latents, case.geometry)
    chosen = sorted({0, count // 3, count // 2, count - 1})
    worst = 0.0
    for frames in (chosen, chosen[::-1], chosen[:1], chosen[-1:]):
        part = case.backbone.decode(case.latents, case.geometry, frames)
        what = f"frames {frames}"
        expect_tensor(part, (2, len(frames), *full.shape[2:]), what, dtype=full.dtype)
        worst = max(worst, relative(part, full[:, frames]))
    if case.backbone.decode_is_exact:
        found = f"decode_is_exact, but frames {chosen} differ from the full decode by {worst:.2g}"
        expect(worst <= ROUNDING, found)
        return f"frames {chosen} equal the full decode's to {worst:.1g}"
    ordered = case.backbone.decode(case.latents, case.geometry, chosen)
    reverse = case.backbone.decode(case.latents, case.geometry, chosen[::-1])
    expect_close(reverse.flip(1), ordered, f"frames {chosen} and the same backwards")
    return f"declared inexact: frames {chosen} differ from the full decode by {worst:.2g}"


@BACKBONE.clause
def encoding(subject: BackboneSubject) -> str:
    """`encode_video` gives latents of the right shape, or says in one message that there is no encoder."""
    backbone = subject.loaded()
    size = backbone.resolve_geometry(subject.geometry)
    video = Randomness(seed=6).normal(
        "video", (size.num_frames, 3, size.height, size.width), device=subject.device
    )
    try:
        with torch.no_grad():
            latents = backbone.encode_video(video.sigmoid(), Randomness(seed=6))
    except VaderError as error:
        return str(error)
    expect_tensor(latents, (1, *backbone.latent_shape(size)), "the latents")
    return f"{tuple(video.shape)} -> {tuple(latents.shape[1:])}"


@BACKBONE.clause
def images(subject: BackboneSubject) -> str:
    """An image is used, with its gradient, or refused; so is a prompt without the image that is needed."""
    backbone = subject.loaded()
    size = backbone.resolve_geometry(subject.geometry)
    rng = Randomness(seed=5, samples=(0, 1))
    prompts = _prompts(subject, backbone)
    encoded = backbone.encode_text(prompts)
    if backbone.needs_image:
        without = partial(backbone.condition, encoded, prompts, size, rng)
        expect_refused(without, "a prompt without an image")
    picture = _picture(backbone, size, rng).requires_grad_(True)
    try:
        given = backbone.condition(encoded, prompts, size, rng, image=picture)
    except VaderError as error:
        expect(not backbone.needs_image, f"an image is needed, yet was refused: {error}")
        return f"refused: {error}"
    with_graph = [name for name, value in given.tensors.items() if value.requires_grad]
    expect(with_graph, "the image is accepted and ignored: nothing in the conditioning depends on it")
    return f"reaches {', '.join(with_graph)}"


@BACKBONE.clause
def bfloat16(subject: BackboneSubject) -> str:
    """In bfloat16 latents and videos stay float32, and gradients reach the LoRA."""
    case = _case(subject)
    with torch.no_grad():
        wanted = case.predict()
    backbone = subject.fresh(torch.bfloat16)
    attach_lora(backbone.denoiser, LoraSettings(rank=2, targets=backbone.lora_targets))
    half = _case(subject, backbone)
    expect_tensor(half.latents, tuple(wanted.shape), "the noise", dtype=torch.float32)
    found = half.predict()
    expect_tensor(found, tuple(wanted.shape), "the prediction", dtype=torch.float32)
    video = backbone.decode(found, half.geometry)
    expect(video.dtype == torch.float32, f"the video has dtype {video.dtype}, not float32")
    _energy(video).backward()
    still = [n for n, p in adapter_parameters(backbone.denoiser).items() if p.grad is None]
    expect(not still, f"no gradient reaches {still[:1]}")
    off = float((found.detach() - wanted).norm() / wanted.norm())
    expect(off <= BF16, f"the prediction differs from float32's by {off:.2g} of its norm (allowed {BF16})")
    return f"{off:.1g} from float32"
