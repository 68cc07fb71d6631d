"""A backbone: what is known before its weights are, what is loaded, and what it predicts."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from vader_core.backbone import Backbone
from vader_core.conditioning import Conditioning
from vader_core.geometry import GeometryRequest
from vader_core.lora.adapter import LoraSettings, attach_lora, named_by
from vader_core.nn.feature_cache import FeatureCache
from vader_core.randomness import Randomness
from vader_core.schedule import RectifiedFlow, Schedule, VarianceExploding, VariancePreserving
from vader_core.testing.backbone_case import (
    BACKBONE,
    PREDICTIONS,
    BackboneSubject,
    case_of,
    late_timestep,
    parameters_of,
    prompts_of,
)
from vader_core.testing.conformance import (
    expect,
    expect_close,
    expect_refused,
    expect_tensor,
    global_state_untouched,
    relative,
    reseeded,
)

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
    allowed: tuple[str, ...] = PREDICTIONS.get(type(found), ())
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
    parameters = parameters_of(backbone)
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
    prompts = prompts_of(subject, backbone)
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
    case = case_of(subject)
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
    size = subject.size(backbone)
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
    case = case_of(subject)
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
        first = case_of(subject)
        one, video = first.predict(), first.backbone.decode(first.latents, first.geometry)
    with reseeded(2):
        second = case_of(subject)
        two, again = second.predict(), second.backbone.decode(second.latents, second.geometry)
    expect(torch.equal(first.latents, second.latents), "the noise changes with the global random state")
    off = max(relative(two, one), relative(again, video))
    allowed = 0.0 if subject.device.type == "cpu" else ROUNDING_ON_DEVICE
    expect(off <= allowed, f"repeated calls differ by {off:.2g}")
    with global_state_untouched():
        case_of(subject).predict()
    return "bit for bit" if off == 0 else f"to {off:.1g}"


#: Atomic additions on an accelerator may come in another order.
ROUNDING_ON_DEVICE = 1e-5


@BACKBONE.clause
@torch.no_grad()
def batch_independence(subject: BackboneSubject) -> str:
    """A sample's prediction and video do not depend on the other samples of its batch."""
    case = case_of(subject)
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
    case = case_of(subject)
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
    case = case_of(subject)
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
