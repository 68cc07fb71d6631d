"""Options of the backbones, apart from them so that listing them imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class PipelineOptions(BaseModel):
    """What every pipeline can be asked for."""

    model_config = ConfigDict(extra="forbid")

    weights: str = Field(
        "pretrained",
        description="pretrained, a folder in diffusers' layout, hub:OWNER/NAME[@REVISION], or random",
    )
    model: str | None = Field(
        None, description="which published model `pretrained` or `random` means; a wrong name lists them"
    )
    architecture: str | None = Field(
        None, description="sizes of random weights: a model's name or a folder in diffusers' layout"
    )
    vae_dtype: Literal["float32", "same"] = Field(
        "same", description="precision of the autoencoder: the run's own, or float32"
    )
    attention_backend: str | None = Field(
        None,
        description="diffusers' attention backend, e.g. flash or native; it must have a backward pass",
    )
    transformer_subfolder: str | None = Field(
        None, description="folder of the denoiser in the repository where it is not `transformer`"
    )
    max_sequence_length: int | None = Field(
        None, ge=1, description="text tokens; the pipeline's own number where left out"
    )


class WanOptions(PipelineOptions):
    """Options of `wan` and `wan_i2v`."""

    vae_dtype: Literal["float32", "same"] = Field(
        "float32", description="precision of the autoencoder: float32 as its authors advise, or the run's own"
    )
    expert: Literal["high", "low", "both"] = Field(
        "low",
        description="which expert of Wan 2.2 A14B learns: of high noise, of low noise, or both",
    )
    guidance_scale_low: float | None = Field(
        None, description="guidance of the low-noise expert; the published model's own where left out"
    )


class LTXOptions(PipelineOptions):
    """Options of `ltx`."""

    guidance_rescale: float | None = Field(
        None, ge=0.0, le=1.0, description="share of the guided prediction that gets the text branch's spread"
    )
    decode_timestep: float | None = Field(
        None, ge=0.0, le=1.0, description="time that the decoder is told, from 0.9.1 on"
    )
    decode_noise_scale: float | None = Field(
        None, ge=0.0, le=1.0, description="noise mixed into the latents before decoding, from 0.9.1 on"
    )


class LTX2Options(PipelineOptions):
    """Options of `ltx2`. What is left out is the published model's, or the pipeline's own."""

    sound_guidance_scale: float | None = Field(
        None, description="guidance of the sound, beside --guidance-scale for the picture (7)"
    )
    perturbed_scale: float | None = Field(
        None, ge=0.0, description="how far the picture is pushed from perturbed blocks; 0 is not (1)"
    )
    sound_perturbed_scale: float | None = Field(None, ge=0.0, description="the same for the sound (1)")
    modality_scale: float | None = Field(
        None, ge=1.0, description="how far the picture is pushed from one without sound; 1 is not (3)"
    )
    sound_modality_scale: float | None = Field(
        None, ge=1.0, description="how far the sound is pushed from one without picture; 1 is not (3)"
    )
    guidance_rescale: float | None = Field(
        None,
        ge=0.0,
        le=1.0,
        description="share of the guided picture that gets the text branch's spread (0.7)",
    )
    sound_guidance_rescale: float | None = Field(
        None, ge=0.0, le=1.0, description="the same for the sound (0.7)"
    )
    perturbed_blocks: tuple[int, ...] | None = Field(
        None, description="blocks whose self-attention the perturbed branch leaves out (28)"
    )
    cross_timestep: bool = Field(
        True, description="picture and sound are told each other's time; false as LTX-2.0's first code did"
    )
    decode_timestep: float | None = Field(
        None, ge=0.0, le=1.0, description="time that the decoder is told, where it takes one (0)"
    )
    decode_noise_scale: float | None = Field(
        None, ge=0.0, le=1.0, description="noise mixed into the latents before decoding; as decode_timestep"
    )


class TracedOptions(PipelineOptions):
    """Options of `diffusers`."""

    targets: tuple[str, ...] = Field(
        (), description="LoRA targets where the denoiser has not to_q, to_k, to_v and to_out.0"
    )


class HunyuanVideoOptions(PipelineOptions):
    """Options of `hunyuan_video`."""

    embedded_guidance: float | None = Field(
        None,
        description="guidance that the model is told, so that --guidance-scale means a second branch; left "
        "out, --guidance-scale is what it is told (6)",
    )
