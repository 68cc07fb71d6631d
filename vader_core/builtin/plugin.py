"""Registers the core's own components, through the hooks that every plugin uses. Imports nothing heavy."""

from __future__ import annotations

from typing import Any

from vader_core.builtin.prompts.file import FileOptions, make_file
from vader_core.builtin.prompts.hps_v2 import FILES, HPSv2Options, make_hps_v2
from vader_core.builtin.prompts.images import ImagesOptions, make_images
from vader_core.builtin.prompts.nouns_activities import NounsActivitiesOptions, make_nouns_activities
from vader_core.builtin.prompts.text import TextOptions, make_text
from vader_core.builtin.prompts.themed import OPTIONS, THEMES, make_themed
from vader_core.builtin.samplers.options import (
    DDIMOptions,
    DPMSolverOptions,
    EulerOptions,
    FlowEulerOptions,
    FlowUniPCOptions,
    IDDPMOptions,
    LCMOptions,
    RectifiedFlowOptions,
)
from vader_core.hookspecs import Register, RegisterLoraFormat, hookimpl
from vader_core.method.options import NFTOptions, RewardGradientOptions, SupervisedOptions


def _ddim(config: Any, *, device: object, dtype: object) -> object:
    from vader_core.builtin.samplers.ddim import DDIM

    return DDIM(config)


def _dpmpp(config: Any, *, device: object, dtype: object) -> object:
    from vader_core.builtin.samplers.dpmpp import DPMSolver

    return DPMSolver(config)


def _euler(config: Any, *, device: object, dtype: object) -> object:
    from vader_core.builtin.samplers.euler import Euler

    return Euler(config)


def _iddpm(config: Any, *, device: object, dtype: object) -> object:
    from vader_core.builtin.samplers.iddpm import IDDPM

    return IDDPM(config)


def _lcm(config: Any, *, device: object, dtype: object) -> object:
    from vader_core.builtin.samplers.lcm import LCM

    return LCM(config)


def _rectified_flow(config: Any, *, device: object, dtype: object) -> object:
    from vader_core.builtin.samplers.rectified_flow import RectifiedFlowEuler

    return RectifiedFlowEuler(config)


def _flow_euler(config: Any, *, device: object, dtype: object) -> object:
    from vader_core.builtin.samplers.flow_euler import FlowEuler

    return FlowEuler(config)


def _flow_unipc(config: Any, *, device: object, dtype: object) -> object:
    from vader_core.builtin.samplers.flow_unipc import FlowUniPC

    return FlowUniPC(config)


@hookimpl
def register_samplers(register: Register) -> None:
    """DDIM, DPM-Solver++ (2M), Euler, IDDPM, consistency steps, and three along a rectified flow."""
    register("ddim", _ddim, config=DDIMOptions, summary="DDIM for epsilon and v models")
    register(
        "dpmpp",
        _dpmpp,
        config=DPMSolverOptions,
        summary="DPM-Solver++ (2M) for few steps, epsilon and v models",
    )
    register(
        "euler",
        _euler,
        config=EulerOptions,
        summary="Euler on the noise level: EDM (Karras), epsilon and v models",
    )
    register(
        "iddpm",
        _iddpm,
        config=IDDPMOptions,
        summary="ancestral DDPM over respaced steps, with the variance that the model predicts",
    )
    register(
        "lcm",
        _lcm,
        config=LCMOptions,
        summary="consistency steps, for students distilled to a few: T2V-Turbo, LCM",
    )
    register(
        "rectified_flow",
        _rectified_flow,
        config=RectifiedFlowOptions,
        summary="Euler steps along a rectified flow, with a static time shift",
    )
    register(
        "flow_euler",
        _flow_euler,
        config=FlowEulerOptions,
        summary="Euler steps along a rectified flow, at diffusers' times",
    )
    register(
        "flow_unipc",
        _flow_unipc,
        config=FlowUniPCOptions,
        summary="UniPC of second order along a rectified flow",
    )


def _reward_gradient(config: Any, *, device: object, dtype: object) -> object:
    from vader_core.method.reward_gradient import RewardGradient

    return RewardGradient(config)


def _supervised(config: Any, *, device: object, dtype: object) -> object:
    from vader_core.method.supervised import Supervised

    return Supervised(config)


def _nft(config: Any, *, device: object, dtype: object) -> object:
    from vader_core.method.nft import NFT

    return NFT(config)


@hookimpl
def register_objectives(register: Register) -> None:
    """The reward gradient, learning from clips, and learning from any reward."""
    register(
        "reward_gradient",
        _reward_gradient,
        config=RewardGradientOptions,
        summary="VADER: a reward's gradient through the denoising steps",
    )
    register(
        "supervised",
        _supervised,
        config=SupervisedOptions,
        summary="fine-tuning on clips and their captions: --data",
    )
    register(
        "nft",
        _nft,
        config=NFTOptions,
        summary="DiffusionNFT: any reward, with or without a gradient, from groups of clips per prompt",
    )


@hookimpl
def register_prompt_sources(register: Register) -> None:
    """Words, files, folders, pairs of nouns and activities, themed lists, and the HPS v2 benchmark."""
    register("text", make_text, config=TextOptions, summary="prompts given in words: --prompts text:…")
    register("file", make_file, config=FileOptions, summary="a txt, csv or jsonl file: --prompts file:PATH")
    register(
        "images", make_images, config=ImagesOptions, summary="a folder of pictures: --prompts images:FOLDER"
    )
    register(
        "nouns_activities",
        make_nouns_activities,
        config=NounsActivitiesOptions,
        summary="every noun doing every activity",
    )
    register(
        "hps_v2",
        make_hps_v2,
        config=HPSv2Options,
        summary="the 3,200 benchmark prompts of HPS v2, from the hub",
        weights=FILES,
    )
    for theme, summary in THEMES.items():
        register(theme, make_themed, config=OPTIONS[theme], summary=f"themed list: {summary}")


@hookimpl
def register_lora_formats(register: RegisterLoraFormat) -> None:
    """Peft's folder and diffusers' file."""
    register("peft", "vader_core.builtin.lora.peft:PeftFolder", summary="a folder as peft writes it")
    register(
        "diffusers",
        "vader_core.builtin.lora.diffusers:DiffusersFile",
        summary="a safetensors file as diffusers' save_lora_weights writes it",
    )
