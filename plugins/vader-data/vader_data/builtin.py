"""Announces our own detectors, scorers, captioners and embedders, by the door that anybody else's use."""

from __future__ import annotations

from . import options
from .hookspecs import Register, hookimpl


@hookimpl
def register_detectors(register: Register) -> None:
    """Announces PySceneDetect's detectors."""
    register(
        "cascade",
        "vader_data.scenes:Cascade",
        options=options.CascadeOptions,
        summary="content change at three thresholds over fewer and fewer frames (EasyAnimate V2)",
    )
    register(
        "content",
        "vader_data.scenes:Content",
        options=options.ContentOptions,
        summary="content change, one pass",
    )
    register(
        "adaptive",
        "vader_data.scenes:Adaptive",
        options=options.AdaptiveOptions,
        summary="content change against its neighbours' (Open-Sora, text2bricks)",
    )
    register("none", "vader_data.scenes:Whole", summary="no detection: each film is one scene")


@hookimpl
def register_scorers(register: Register) -> None:
    """Announces motion, text and the rewards."""
    register(
        "farneback",
        "vader_data.motion:Farneback",
        options=options.FarnebackOptions,
        summary="mean length of Farnebäck's optical flow; no weights",
    )
    register(
        "raft",
        "vader_data.raft:Raft",
        options=options.RaftOptions,
        summary="mean length of RAFT's optical flow",
        gpu=True,
    )
    register(
        "text_area",
        "vader_data.text_area:TextArea",
        options=options.TextAreaOptions,
        summary="share of the middle frame that text covers, by rapidocr's detector",
    )
    register(
        "text_boxes",
        "vader_data.text_area:TextBoxes",
        options=options.TextBoxesOptions,
        summary="number of text boxes in one frame (Open-Sora's ocr), by rapidocr's detector",
    )
    register(
        "reward",
        "vader_data.reward_scorer:RewardScorer",
        options=options.RewardOptions,
        summary="any reward of the installed plugins: aesthetic, vjepa, viclip, …",
        gpu=True,
    )


@hookimpl
def register_captioners(register: Register) -> None:
    """Announces who can write captions."""
    register(
        "openai",
        "vader_data.caption_openai:OpenAICaptioner",
        options=options.OpenAIOptions,
        summary="any server that speaks OpenAI's chat completions",
    )
    register(
        "transformers",
        "vader_data.caption_transformers:TransformersCaptioner",
        options=options.TransformersOptions,
        summary="a vision-language model on this machine",
        gpu=True,
    )


@hookimpl
def register_embedders(register: Register) -> None:
    """Announces what near duplicates are found by."""
    register(
        "thumbnail",
        "vader_data.embedders:Thumbnail",
        options=options.ThumbnailOptions,
        summary="three tiny pictures, light and contrast taken out; no weights",
    )
    register(
        "clip",
        "vader_data.embedders:ClipEmbedder",
        options=options.ClipEmbedderOptions,
        summary="image features of CLIP, SigLIP or DINOv2",
        gpu=True,
    )
