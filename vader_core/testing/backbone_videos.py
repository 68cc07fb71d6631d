"""A backbone: videos in and out, first frames, and half precision."""

from __future__ import annotations

from functools import partial

import torch

from vader_core.backbone import Backbone
from vader_core.errors import VaderError
from vader_core.lora.adapter import LoraSettings, adapter_parameters, attach_lora
from vader_core.randomness import Randomness
from vader_core.testing.backbone_case import (
    BACKBONE,
    BF16,
    BackboneSubject,
    case_of,
    picture_of,
    prompts_of,
)
from vader_core.testing.backbone_gradients import energy
from vader_core.testing.conformance import (
    ROUNDING,
    expect,
    expect_close,
    expect_refused,
    expect_tensor,
    relative,
)


@BACKBONE.clause
@torch.no_grad()
def decoding(subject: BackboneSubject) -> str:
    """The video is [B, F, 3, *video_size] in the latents' dtype, finite, nominally in [0, 1], not clamped."""
    case = case_of(subject)
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
    case = case_of(subject)
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
    """`encode_video` records no graph and draws from its `rng` alone; trained, its decode is close.

    Or it says in one message that there is no encoder.
    """
    case = case_of(subject)
    backbone, size, rng = case.backbone, case.geometry, Randomness(seed=6, samples=(0, 1))
    with torch.no_grad():
        video = backbone.decode(case.latents, size).clamp(0, 1)
    before = torch.random.get_rng_state()
    try:
        latents = backbone.encode_video(video.clone().requires_grad_(), rng)
    except VaderError as error:
        return str(error)
    expect_tensor(latents, (2, *backbone.latent_shape(size)), "the latents")
    expect(not latents.requires_grad, "encode_video records a graph: the latents require a gradient")
    untouched = torch.equal(before, torch.random.get_rng_state())
    expect(untouched, "encode_video draws from the global generator, not from its rng")
    again = backbone.encode_video(video, rng)
    expect(torch.equal(latents, again), "encode_video gives other latents for the same rng")
    alone = backbone.encode_video(video[1:], Randomness(seed=6, samples=(1,)))
    expect_close(alone, latents[1:], "the second clip's latents, encoded alone")
    other = relative(backbone.encode_video(video, Randomness(seed=7, samples=(0, 1))), latents)
    drawn = f"a posterior of {other:.2g}" if other else "no draw"
    with torch.no_grad():
        back = backbone.decode(latents, size)
    off = float((back - video).norm() / (video - video.mean()).norm())
    if trained(backbone):
        expect(off <= RECONSTRUCTED, f"decode of encode is {off:.2g} of the video's contrast away from it")
    return f"{tuple(video.shape[1:])} -> {tuple(latents.shape[1:])}, {drawn}, back to {off:.2g}"


#: Largest distance of a trained autoencoder's reconstruction, as a share of the video's contrast. The demo's,
#: measured: 0.52 at 8 frames of 64x64, 0.55 at the kit's size; of two unrelated videos of its own, 1.41.
RECONSTRUCTED = 0.75


def trained(backbone: Backbone) -> bool:
    """Whether the weights are the published ones; those of a folder may be anybody's, random too."""
    options = getattr(backbone, "config", None) or getattr(backbone, "options", None)
    weights = str(getattr(options, "weights", "random"))
    return weights == "pretrained" or weights.startswith("hub:")


@BACKBONE.clause
def images(subject: BackboneSubject) -> str:
    """An image is used, with its gradient, or refused; so is a prompt without the image that is needed."""
    backbone = subject.loaded()
    size = subject.size(backbone)
    rng = Randomness(seed=5, samples=(0, 1))
    prompts = prompts_of(subject, backbone)
    encoded = backbone.encode_text(prompts)
    if backbone.needs_image:
        without = partial(backbone.condition, encoded, prompts, size, rng)
        expect_refused(without, "a prompt without an image")
    picture = picture_of(backbone, size, rng).requires_grad_(True)
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
    case = case_of(subject)
    with torch.no_grad():
        wanted = case.predict()
    backbone = subject.fresh(torch.bfloat16)
    attach_lora(backbone.denoiser, LoraSettings(rank=2, targets=backbone.lora_targets))
    half = case_of(subject, backbone)
    expect_tensor(half.latents, tuple(wanted.shape), "the noise", dtype=torch.float32)
    found = half.predict()
    expect_tensor(found, tuple(wanted.shape), "the prediction", dtype=torch.float32)
    video = backbone.decode(found, half.geometry)
    expect(video.dtype == torch.float32, f"the video has dtype {video.dtype}, not float32")
    energy(video).backward()
    still = [n for n, p in adapter_parameters(backbone.denoiser).items() if p.grad is None]
    expect(not still, f"no gradient reaches {still[:1]}")
    off = float((found.detach() - wanted).norm() / wanted.norm())
    expect(off <= BF16, f"the prediction differs from float32's by {off:.2g} of its norm (allowed {BF16})")
    return f"{off:.1g} from float32"
