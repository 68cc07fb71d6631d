"""The files that the plugin wants."""

from __future__ import annotations

from vader_core.weights import WeightFile

DENOISER = WeightFile(
    "hpcai-tech/OpenSora-STDiT-v3", "model.safetensors", numbers=1_207_643_972, note="STDiT3-XL/2"
)


AUTOENCODER = WeightFile(
    "hpcai-tech/OpenSora-VAE-v1.2",
    "model.safetensors",
    numbers=393_341_007,
    note="image and temporal autoencoder",
    when=(("vae_weights", (None, "pretrained")),),
)


TEXT_ENCODER = WeightFile(
    "DeepFloyd/t5-v1_1-xxl",
    numbers=4_762_310_656,
    note="T5-XXL encoder; used before training only",
    when=(("text_encoder_weights", (None, "pretrained")),),
)


DENOISER_11 = WeightFile(
    "hpcai-tech/OpenSora-STDiT-v2-stage3", "model.safetensors", numbers=767_452_100, note="STDiT2-XL/2"
)


AUTOENCODER_11 = WeightFile(
    "stabilityai/sd-vae-ft-ema",
    "diffusion_pytorch_model.safetensors",
    numbers=83_653_863,
    licence="mit",
    note="image autoencoder",
    when=(("vae_weights", (None, "pretrained")),),
)
