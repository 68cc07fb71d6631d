"""What programs call the tensors of a LoRA: every known name as module and part, or refused by its name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from vader_core.errors import VaderError
from vader_core.wrappings import INNER, PREFIXES

#: Before a name, of no meaning for which module it is: wrappers of training code, peft and ComfyUI.
_WRAPPERS = (*PREFIXES, "base_model.model.", "model.diffusion_model.", "diffusion_model.")
#: The pipeline's name of its denoiser, as diffusers writes it.
COMPONENTS = ("transformer", "unet")
#: Kohya writes module names without dots behind one of these.
_FLAT = re.compile(r"(?:lora_unet|lora_transformer|lora_denoiser)_(?=.)")
#: LoRAs of a text encoder, which this toolkit never trains.
_TEXT = ("text_encoder", "text_model", "lora_te", "te_", "te1_", "te2_", "clip_l", "t5xxl")
_OLD = re.compile(r"\.processor\.(to_(?:q|k|v|out)|add_(?:k|v)_proj)_lora\.(down|up)\.weight$")
_ENDINGS = (
    (re.compile(r"\.lora_A(?:\.[\w-]+)?\.weight$"), "A"),
    (re.compile(r"\.lora_B(?:\.[\w-]+)?\.weight$"), "B"),
    (re.compile(r"\.lora(?:_linear_layer|_layer|_conv2d_layer)?[._]down\.weight$"), "A"),
    (re.compile(r"\.lora(?:_linear_layer|_layer|_conv2d_layer)?[._]up\.weight$"), "B"),
    (re.compile(r"\.lora_[AB](?:\.[\w-]+)?\.alpha$|\.(?:lora_)?alpha$"), "alpha"),
)
#: What a name says of a format that adds something else than up · down.
_OTHERS = (
    (("dora_scale", "lora_magnitude_vector"), "a DoRA"),
    (("hada_",), "a LoHa (LyCORIS)"),
    (("lokr_",), "a LoKr (LyCORIS)"),
    (("oft_",), "an OFT"),
    (("lora_mid",), "a LoCon with a middle matrix (LyCORIS)"),
    (("lora_embedding_",), "a LoRA of an embedding"),
    (("lora_A.bias", "lora_B.bias", "lora_B.default.bias"), "a LoRA with a bias"),
    (("ia3_", "vera_lambda", "boft_", "adalora", "lora_E"), "another adapter of peft"),
    (("modules_to_save",), "a LoRA beside whole trained modules"),
    (("diff_b", ".diff"), "a file of whole differences"),
)


@dataclass(frozen=True)
class Named:
    """A tensor's name, taken apart.

    Args:
        module: Relative to the denoiser; without dots where ``flat``.
        part: ``A`` (down), ``B`` (up) or ``alpha``.
        component: ``unet`` or ``transformer`` where the file says so, else ``""``.
        flat: Whether the module's dots were written as underscores.
    """

    module: str
    part: str
    component: str = ""
    flat: bool = False


def is_lora_name(name: str) -> bool:
    """Whether a tensor of that name belongs to a LoRA in one of the known forms."""
    return _part_of(name) is not None


def named(name: str, *, what: str) -> Named:
    """A tensor's name as module and part.

    Args:
        name: As it stands in the file.
        what: The file, for messages.

    Raises:
        VaderError: It belongs to something else, with what it looks like.
    """
    found = _part_of(name)
    if found is None:
        looks = next((words for parts, words in _OTHERS if any(part in name for part in parts)), None)
        raise VaderError(
            f"{what}: {name} is no tensor of a plain LoRA"
            + (f"; it looks like {looks}, which is not supported" if looks else "")
            + " (known: …lora_A.weight, …lora_down.weight, …lora.down.weight, …to_q_lora.down.weight, "
            "their counterparts, and .alpha)"
        )
    stem, part = found
    inner, component = _without_wrappers(stem)
    if inner.startswith(_TEXT):
        raise VaderError(
            f"{what}: {name} belongs to a text encoder; a LoRA of the denoiser "
            f"({' or '.join(COMPONENTS)}) alone can be read"
        )
    flat = _FLAT.match(inner)
    return Named(inner[flat.end() :] if flat else inner, part, component, flat is not None)


def _part_of(name: str) -> tuple[str, str] | None:
    old = _OLD.search(name)
    if old is not None:
        target = "to_out.0" if old[1] == "to_out" else old[1]
        return f"{name[: old.start()]}.{target}", "A" if old[2] == "down" else "B"
    for pattern, part in _ENDINGS:
        match = pattern.search(name)
        if match is not None and match.start():
            return name[: match.start()], part
    return None


def _without_wrappers(stem: str) -> tuple[str, str]:
    component = ""
    while True:
        prefix = next((one for one in _WRAPPERS if stem.startswith(one)), None)
        if prefix is None and not component:
            component = next((one for one in COMPONENTS if stem.startswith(f"{one}.")), "")
            prefix = f"{component}." if component else None
        if prefix is None:
            for inner in INNER:
                stem = stem.replace(inner, ".")
            return stem, component
        stem = stem.removeprefix(prefix)


def with_dots(modules: Mapping[str, object], flat: str) -> str | None:
    """The one of ``modules`` that is ``flat`` without its dots, or ``None``."""
    wanted = flat.replace(".", "_")
    return next((name for name in modules if name.replace(".", "_") == wanted), None)
