"""The backbone on its tiny random model."""

from __future__ import annotations

import copy

import pytest
import torch
from vader_modelscope.architecture import FULL, TINY
from vader_modelscope.backbone import ModelScope
from vader_modelscope.options import ModelScopeConfig

from vader_core.conditioning import Conditioning
from vader_core.errors import VaderError
from vader_core.geometry import Geometry, GeometryRequest
from vader_core.lora.adapter import LoraSettings, adapter_dropout, adapter_parameters, attach_lora
from vader_core.nn.recompute import RecomputeSwitch, recompute_blocks
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.registry import load_registry
from vader_core.testing.backbones import backbone_clauses, backbone_subject

OPTIONS = {"weights": "random", "architecture": "tiny"}
SMALL = Geometry(height=16, width=24, num_frames=3, fps=8.0)


def make(dtype=torch.float32, **options) -> ModelScope:
    backbone = ModelScope(ModelScopeConfig(**{**OPTIONS, **options}), device=torch.device("cpu"), dtype=dtype)
    backbone.load()
    return backbone


@pytest.fixture(scope="module")
def subject():
    request = GeometryRequest(SMALL.height, SMALL.width, SMALL.num_frames, SMALL.fps)
    return backbone_subject("modelscope", OPTIONS, geometry=request)


@pytest.mark.slow_cases("bfloat16", "checkpointing", "swapping", "chosen_gradient", "gradient_to_lora")
@pytest.mark.parametrize("clause", backbone_clauses(), ids=str)
def test_conformance(clause, subject):
    clause.require(subject)


def test_registered():
    component = load_registry().get("backbone", "modelscope")
    assert component.package == "vader_modelscope"
    assert component.weights[0].repository == "damo-vilab/text-to-video-ms-1.7b"


def test_defaults_are_the_official_ones():
    backbone = ModelScope(ModelScopeConfig(), device=torch.device("cpu"), dtype=torch.float32)
    defaults = backbone.defaults
    assert (defaults.geometry.height, defaults.geometry.width, defaults.geometry.num_frames) == (384, 384, 16)
    assert (defaults.num_steps, defaults.guidance_scale, defaults.gradient) == (25, 9.0, "last")
    assert backbone.latent_shape(defaults.geometry) == (4, 16, 48, 48)
    sampler = load_registry().get("sampler", defaults.sampler)
    made = sampler.make(dict(defaults.sampler_options), device="cpu", dtype=torch.float32)
    timesteps = made.plan(backbone.schedule, defaults.num_steps, defaults.geometry).timesteps
    assert (timesteps[0], timesteps[-1], len(timesteps)) == (999.0, 40.0, 25)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (GeometryRequest(height=380), "use a multiple of 8, e.g. 376 or 384"),
        (GeometryRequest(width=4), "use a multiple of 8, e.g. 8"),
        (GeometryRequest(num_frames=1), "use 2 or more"),
        (GeometryRequest(fps=0), "use a number above 0"),
    ],
)
def test_geometry_errors(request_, said):
    backbone = ModelScope(ModelScopeConfig(), device=torch.device("cpu"), dtype=torch.float32)
    with pytest.raises(VaderError, match=said):
        backbone.resolve_geometry(request_)


def test_official_sizes_are_allowed():
    backbone = ModelScope(ModelScopeConfig(), device=torch.device("cpu"), dtype=torch.float32)
    for size in (256, 384):
        geometry = backbone.resolve_geometry(GeometryRequest(height=size, width=size))
        assert backbone.latent_shape(geometry) == (4, 16, size // 8, size // 8)


@pytest.mark.slow
def test_default_lora_covers_every_attention_projection():
    backbone = ModelScope(ModelScopeConfig(), device=torch.device("cpu"), dtype=torch.float32)
    with torch.device("meta"):
        attached = attach_lora(
            backbone.build_denoiser(), LoraSettings(rank=16, targets=backbone.lora_targets)
        )
    # 16 + 16 transformer blocks in space and time and one at the input: two attentions each, of four layers
    assert len(attached.modules) == 33 * 2 * 4
    with torch.device("meta"):
        everything = attach_lora(backbone.build_denoiser(), LoraSettings(rank=16, targets=("all",)))
    assert len(everything.modules) == 574


def differentiated(backbone: ModelScope, on: bool, seed: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    rng = Randomness(seed=1)
    latents = backbone.initial_noise(1, SMALL, rng)
    embeddings = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(2))
    parameters = adapter_parameters(backbone.denoiser)
    for parameter in parameters.values():
        parameter.grad = None
    with backbone.checkpointing(on), adapter_dropout(backbone.denoiser, seed):
        output = backbone.predict(
            latents, torch.tensor([400.0]), Conditioning({"embeddings": embeddings})
        ).value
        output.square().mean().backward()
    return output.detach(), {name: value.grad.clone() for name, value in parameters.items()}


def test_checkpointing_changes_no_bit():
    backbone = make()
    attach_lora(backbone.denoiser, LoraSettings(rank=2, targets=("all",), dropout=0.2))
    for name, parameter in adapter_parameters(backbone.denoiser).items():
        if ".lora_B." in name:
            parameter.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    plain, gradients = differentiated(backbone, False, seed=3)
    again, recomputed = differentiated(backbone, True, seed=3)
    other, _ = differentiated(backbone, True, seed=4)
    assert torch.equal(plain, again)
    assert all(torch.equal(gradients[name], recomputed[name]) for name in gradients)
    assert any(gradient.abs().max() > 0 for gradient in gradients.values())
    assert not torch.equal(plain, other), "the dropout must have been on for this test to mean anything"


@pytest.mark.slow
def test_checkpointing_holds_fewer_activations():
    def held(on: bool) -> int:
        backbone = make()
        attach_lora(backbone.denoiser, LoraSettings(rank=2, targets=("all",)))
        kept = []
        latents = backbone.initial_noise(1, SMALL, Randomness(seed=1))
        conditioning = Conditioning({"embeddings": torch.zeros(1, 16, 32)})
        with (
            backbone.checkpointing(on),
            torch.autograd.graph.saved_tensors_hooks(
                lambda value: kept.append(value.numel()) or value, lambda value: value
            ),
        ):
            backbone.predict(latents, torch.tensor([400.0]), conditioning)
        return sum(kept)

    assert held(True) < held(False) / 3


def test_checkpointing_is_off_without_gradients():
    backbone = make()
    attach_lora(backbone.denoiser, LoraSettings(rank=2, targets=backbone.lora_targets))
    conditioning = Conditioning({"embeddings": torch.zeros(1, 16, 32)})
    latents = backbone.initial_noise(1, SMALL, Randomness(seed=1))
    with backbone.checkpointing(True), torch.no_grad():
        assert not backbone.predict(latents, torch.tensor([400.0]), conditioning).value.requires_grad


def test_recompute_counts_blocks_once_and_copies_work():
    class Block(torch.nn.Linear):
        pass

    switch = RecomputeSwitch()
    model = torch.nn.Sequential(Block(3, 3), Block(3, 3))
    names = list(model.state_dict())
    assert recompute_blocks(model, (Block,), switch) == 2
    assert list(model.state_dict()) == names
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin[0].weight.zero_()
    inputs = torch.ones(1, 3)
    assert not torch.equal(twin(inputs), model(inputs))
    assert all(isinstance(block, Block) for block in twin)


def test_decode_chunks_and_choices_are_exact():
    backbone = make(decode_chunk=2)
    latents = backbone.initial_noise(2, SMALL, Randomness(seed=1, samples=(0, 1))).requires_grad_()
    whole = backbone.decode(latents, SMALL)
    assert whole.shape == (2, 3, 3, 16, 24)
    (gradient,) = torch.autograd.grad(whole.square().mean(), latents)
    with backbone.checkpointing(True):
        chunked = backbone.decode(latents, SMALL)
        (again,) = torch.autograd.grad(chunked.square().mean(), latents)
    torch.testing.assert_close(chunked, whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(again, gradient, rtol=1e-4, atol=1e-9)
    picked = backbone.decode(latents, SMALL, [2, 0])
    torch.testing.assert_close(picked, whole[:, [2, 0]], rtol=1e-5, atol=1e-6)


def test_sixteen_bit_weights_keep_float32_latents():
    backbone = make(torch.bfloat16)
    assert next(backbone.denoiser.parameters()).dtype == torch.bfloat16
    assert next(backbone.text_encoder.parameters()).dtype == torch.float32
    latents = backbone.initial_noise(1, SMALL, Randomness(seed=1))
    text = backbone.encode_text([Prompt("a red boat")])
    conditioning = backbone.condition(text, [Prompt("a red boat")], SMALL, Randomness(seed=1))
    prediction = backbone.predict(latents, torch.tensor([400.0]), conditioning).value
    assert prediction.dtype == torch.float32
    assert backbone.decode(latents, SMALL, [1]).dtype == torch.float32


def test_negative_prompts_reach_the_unconditional_branch():
    backbone = make()
    prompts = [Prompt("a red boat", negative="grey"), Prompt("a red boat")]
    conditioning = backbone.condition(backbone.encode_text(prompts), prompts, SMALL, Randomness(seed=1))
    assert torch.equal(*conditioning.tensors["embeddings"])
    unconditional = conditioning.unconditional_branch.tensors["embeddings"]
    assert not torch.equal(*unconditional)
    empty = backbone.encode_text([Prompt("")]).positive["embeddings"]
    assert torch.equal(unconditional[1], empty[0])


def test_an_image_is_refused():
    backbone = make()
    prompts = [Prompt("a red boat")]
    with pytest.raises(VaderError, match="from text alone"):
        backbone.condition(
            backbone.encode_text(prompts), prompts, SMALL, Randomness(seed=1), image=torch.zeros(1, 3, 16, 24)
        )


def test_encode_video_inverts_the_scale_of_decode():
    backbone = make()
    video = torch.rand(1, 3, 3, 16, 24, generator=torch.Generator().manual_seed(5))
    latents = backbone.encode_video(video, Randomness(0))
    assert latents.shape == (1, *backbone.latent_shape(SMALL))
    pixels = video[0] * 2 - 1
    expected = backbone.autoencoder.encode(pixels).latent_dist.mode() * 0.18215
    torch.testing.assert_close(latents[0].movedim(1, 0), expected)


def test_text_encoder_comes_back_after_its_release():
    backbone = make()
    backbone.release_text_encoder()
    assert backbone.encode_text([Prompt("something new")]).positive["embeddings"].shape == (1, 16, 32)


def test_random_weights_follow_their_seed_and_leave_nothing_at_zero():
    one, two, other = make(), make(), make(seed=1)
    name, first = next(iter(one.denoiser.state_dict().items()))
    assert torch.equal(first, two.denoiser.state_dict()[name])
    assert not torch.equal(first, other.denoiser.state_dict()[name])
    closing = [name for name in one.denoiser.state_dict() if name.endswith("conv4.3.weight")]
    assert closing
    assert all(one.denoiser.state_dict()[name].abs().max() > 0 for name in closing)


def test_full_architecture_builds_all_three_networks_on_meta():
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        autoencoder = AutoencoderKL(**FULL.part("vae"))
        encoder = CLIPTextModel(CLIPTextConfig(**FULL.part("text_encoder")))
    # Stable Diffusion's autoencoder, and OpenCLIP ViT-H's text model without its last layer
    assert sum(value.numel() for value in autoencoder.parameters()) == 83_653_863
    assert sum(value.numel() for value in encoder.parameters()) == 340_387_840
    assert TINY.part("unet").keys() == FULL.part("unet").keys()
