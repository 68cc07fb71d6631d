"""What a LoRA file says of itself: rank, alpha, scaling, and whatever makes it more than a plain LoRA."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vader_core.errors import VaderError

#: Where diffusers notes peft's settings in the file's header.
NOTE = "lora_adapter_metadata"
#: Starts that take a part out of the base model's weights; the rest of the name may follow.
_CHANGED_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica")
#: Settings of peft that add something beside scale · up · down.
_MORE = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "modules_to_save",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "velora_config",
    "monteclora_config",
)
_LONGEST_PATTERN = 500
#: What makes a regular expression take exponential time, or high powers of it.
_REPEATED_GROUP = re.compile(r"\)[*+{]")
_REPEATS = re.compile(r"(?<!\\)[*+{]")
#: Plain entries of a header, the first that is there.
_ALPHAS = ("lora_alpha", "alpha", "network_alpha", "ss_network_alpha")


@dataclass(frozen=True)
class Settings:
    """What a file says beside its tensors.

    Args:
        rank: r, where it says so.
        alpha: Where it says so.
        patterns: Module pattern -> its own alpha.
        root: Scaled by alpha / sqrt(r) (rsLoRA) in place of alpha / r.
    """

    rank: int | None = None
    alpha: float | None = None
    patterns: Mapping[str, float] = field(default_factory=dict)
    root: bool = False

    def scale(self, module: str, rank: int, alpha: float | None) -> float:
        """What up · down of a module is multiplied by.

        Args:
            module: Its name.
            rank: Its own.
            alpha: From its own ``.alpha`` tensor, which counts before all else.
        """
        if alpha is None:
            alpha = self.patterns.get(_pattern(self.patterns, module), self.alpha)
        if alpha is None:
            alpha = float(rank)
        return alpha / (math.sqrt(rank) if self.root else rank)


def _pattern(patterns: Mapping[str, float], module: str) -> str:
    """The first pattern that a module's name, or an end of it, matches; the name where none does."""
    return next((one for one in patterns if re.match(rf"(.*\.)?({one})$", module)), module)


def read_config(path: Path) -> Settings:
    """The settings of an ``adapter_config.json``.

    Raises:
        VaderError: Not readable, or of an adapter that is no plain LoRA.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise TypeError("it must be an object")
        if "r" not in found or "lora_alpha" not in found:
            if str(found.get("peft_type", "LORA")).upper() != "LORA":
                return settings_of_config(found, what=str(path))
            raise KeyError("r" if "r" not in found else "lora_alpha")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise VaderError(f"{path.parent}: {path.name} is missing or unreadable ({reason})") from error
    return settings_of_config(found, what=f"{path.parent}: {path.name}")


def settings_of_notes(notes: Mapping[str, str], *, what: str) -> Settings:
    """The settings in a safetensors header: diffusers' note, or plain entries.

    Raises:
        VaderError: As for :func:`read_config`.
    """
    found: dict[str, Any] = {}
    for key, value in notes.items():
        try:
            found[key] = json.loads(value)
        except (ValueError, RecursionError):
            found[key] = value
    note = found.get(NOTE)
    if NOTE in notes and not isinstance(note, dict):
        raise VaderError(f"{what}: {NOTE} in its header is not readable")
    if isinstance(note, dict):
        starts = {key.partition(".")[0] for key in note if key.endswith(".r")}
        component = next((one for one in ("transformer", "unet") if one in starts), None)
        start = f"{component}." if component else ""
        return settings_of_config({key.removeprefix(start): value for key, value in note.items()}, what=what)
    alpha = next((found[key] for key in _ALPHAS if found.get(key) not in (None, "None", "Dynamic", "")), None)
    return settings_of_config({**found, "lora_alpha": alpha, "r": found.get("r")}, what=what)


def settings_of_config(config: Mapping[str, Any], *, what: str) -> Settings:
    """Peft's settings as ours.

    Raises:
        VaderError: An adapter that is no plain LoRA on an untouched base, or values of a wrong type.
    """
    _refuse_others(config, what)
    patterns = config.get("alpha_pattern") or {}
    try:
        rank = None if config.get("r") is None else int(config["r"])
        alpha = None if config.get("lora_alpha") is None else float(config["lora_alpha"])
        own = {str(name): float(value) for name, value in dict(patterns).items()}
    except (TypeError, ValueError, OverflowError) as error:
        raise VaderError(f"{what}: r, lora_alpha or alpha_pattern is no number ({error})") from error
    if rank is not None and rank < 1:
        raise VaderError(f"{what}: r is {rank}; a rank is 1 or more")
    for pattern in own:
        _check_pattern(pattern, what)
    for value in (alpha, *own.values()):
        if value is not None and not math.isfinite(value):
            raise VaderError(f"{what}: lora_alpha is {value}, which is not a finite number")
    return Settings(rank, alpha, own, _is_on(config.get("use_rslora")))


def _check_pattern(pattern: str, what: str) -> None:
    """A pattern is a stranger's regular expression: it may be none, or never end."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise VaderError(f"{what}: {pattern[:80]!r} in alpha_pattern is no regular expression") from error
    if (
        len(pattern) > _LONGEST_PATTERN
        or _REPEATED_GROUP.search(pattern)
        or len(_REPEATS.findall(pattern)) > 3
    ):
        raise VaderError(
            f"{what}: {pattern[:80]!r} in alpha_pattern repeats within repeats; write the module names out"
        )


def _is_on(value: Any) -> bool:
    return value not in (None, False, 0, "", "False", "false", "None", "null", "none", [], {})


def _refuse_others(config: Mapping[str, Any], what: str) -> None:
    kind = str(config.get("peft_type") or "LORA").rpartition(".")[2].upper()
    if kind != "LORA":
        raise VaderError(f"{what}: peft_type is {kind}, but only LORA is supported")
    more = [name for name in _MORE if _is_on(config.get(name))]
    if _is_on(config.get("bias")):
        more.append("bias")
    if more:
        raise VaderError(f"{what}: {', '.join(more)} is not supported: only a plain LoRA is")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGED_BASES):
        raise VaderError(
            f"{what}: init_lora_weights is {start!r}: such a start takes a part out of the base model's "
            "weights, so the LoRA is right on that changed base alone. Convert it with peft where it was "
            "trained, save_pretrained(FOLDER, path_initial_model_for_weight_conversion=INITIAL), which "
            "writes a plain LoRA"
        )
