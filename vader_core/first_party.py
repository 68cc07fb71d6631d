"""What the plugins of this repository register, so that one that is not installed can be named."""

from __future__ import annotations

from collections.abc import Iterator

from vader_core.component import Kind

#: Distribution -> kind -> names. A test holds it against what the plugins really register.
FIRST_PARTY: dict[str, dict[Kind, tuple[str, ...]]] = {
    "vader-demo": {
        "backbone": ("demo",),
        "reward": (
            "demo_aesthetic",
            "demo_aesthetic_held_out",
            "demo_alignment",
            "demo_alignment_held_out",
            "demo_action",
            "demo_action_held_out",
            "demo_postcard",
            "demo_postcard_alignment",
            "demo_judge_shape",
            "demo_judge_colour",
            "demo_judge_background",
            "demo_judge_motion",
        ),
        "prompt source": ("demo", "demo_style"),
    },
    "vader-rewards": {
        "reward": (
            "aesthetic",
            "hps",
            "pick_score",
            "aesthetic_hps",
            "actpred",
            "object_detection",
            "compression",
            "rainy",
            "snowy",
            "vjepa",
            "viclip",
            "jpeg_size",
            "clip_score",
            "subject_consistency",
            "background_consistency",
            "temporal_flickering",
            "dynamic_degree",
            "http",
            "vqa_yes",
            "image_reward",
            "video_reward",
            "hps_v3",
            "mps",
        ),
    },
    "vader-videocrafter": {"backbone": ("videocrafter",), "sampler": ("ddim_videocrafter",)},
    "vader-opensora": {
        "backbone": ("opensora", "opensora11"),
        "sampler": ("rflow",),
        "prompt source": ("toy_bricks",),
    },
    "vader-easyanimate": {
        "backbone": ("easyanimate",),
        "sampler": ("euler_ancestral", "pndm", "easyanimate_ddim"),
    },
    "vader-diffusers": {
        "backbone": (
            "wan",
            "wan_i2v",
            "ltx",
            "ltx2",
            "cogvideox",
            "hunyuan_video",
            "hunyuan_video15",
            "diffusers",
        ),
    },
    "vader-data": {},
    "vader-studio": {},
    "vader-modelscope": {"backbone": ("modelscope",)},
    "vader-svd": {"backbone": ("svd",), "prompt source": ("svd_demo_images",)},
}

#: Distributions whose names a new plugin must not take: a package index knows one package by each name.
TAKEN = ("vader-core", "vader-example", "vader-latte", "vader-policy-gradient", *FIRST_PARTY)


def first_party(kind: Kind) -> Iterator[tuple[str, str]]:
    """Every component of that kind: its name and the distribution that brings it."""
    for distribution, kinds in FIRST_PARTY.items():
        for name in kinds.get(kind, ()):
            yield name, distribution
