"""The files that the plugin wants."""

from __future__ import annotations

from vader_core.weights import WeightFile

CHECKPOINT = WeightFile(
    "VideoCrafter/VideoCrafter2",
    "model.ckpt",
    numbers=1_850_984_324,
    note="UNet, autoencoder and text encoder in one file",
)


LORA_FILES = (
    WeightFile(
        "zheyangqin/VADER_VideoCrafter_PickScore",
        "vader_videocrafter_pickscore.pt",
        note="optional: LoRA, rank 16, for --lora",
        optional=True,
    ),
    WeightFile(
        "zheyangqin/VADER_VideoCrafter_HPS_Aesthetic",
        "vader_videocrafter_hps_aesthetic.pt",
        note="optional: LoRA, rank 8, for --lora",
        optional=True,
    ),
    WeightFile(
        "jiachenli-ucsb/T2V-Turbo-VC2",
        "unet_lora.pt",
        note="optional: a 4-step student, for --rollout-lora or --lora (CC BY 4.0)",
        optional=True,
    ),
)
