"""Qwen2-VL with a head that reads its states at tokens of its own: what VideoReward and HPSv3 are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vader_core.errors import VaderError
from vader_core.precision import without_autocast
from vader_core.weights import WeightFile

from .loading import architecture
from .options import ScorerOptions
from .qwen_vl import Kind, QwenVL, load_qwen, renamed, tokeniser_of, without_specials

#: What peft puts before every name, and behind a module's.
_WRAPPER, _BASE, _ADAPTER = "base_model.model.", ".base_layer", ".default"
#: What peft keeps of a module that it trains whole: the trained copy, and the one before.
_TRAINED, _BEFORE = ".modules_to_save.default", ".original_module"


class HeadedQwen(nn.Module):
    """Both towers of Qwen2-VL, and a head in place of the words.

    Args:
        layout: Of the towers, as transformers names its entries.
        head: Makes the head from the width of a state.
    """

    def __init__(self, layout: Mapping[str, Any], head: Callable[[int], nn.Module]) -> None:
        from transformers import Qwen2VLConfig, Qwen2VLModel

        super().__init__()
        given = {key: value for key, value in layout.items() if key not in ("model_type", "architectures")}
        self.model: Any = Qwen2VLModel(Qwen2VLConfig(**given))
        self.rm_head = head(int(layout["hidden_size"]))


@dataclass(frozen=True)
class Asked:
    """What a published scorer is: what it is shown, what it is asked, and what reads the answer.

    Args:
        name: The reward's; its question lies in ``questions``, with ``{prompt}`` where the prompt stands.
        kind: Whether it is shown clips or pictures.
        pixels: Fewest and most pixels of a frame after the resize.
        tokens: What the head reads the states of: special tokens that stand in the question once each.
        head: Makes the head from the width of a state.
        presets: Architectures by name.
        weights: What ``pretrained`` stands for.
        words: Its tokenizer.json: of the model that it was tuned from.
        lora_scale: What a LoRA in the weights counts with, from its rank; ``None`` where there is none.
    """

    name: str
    kind: Kind
    pixels: tuple[int, int]
    tokens: tuple[str, ...]
    head: Callable[[int], nn.Module]
    presets: Mapping[str, Mapping[str, Any]]
    weights: WeightFile
    words: WeightFile
    lora_scale: Callable[[int], float] | None = None


class QwenScorer:
    """A frozen Qwen2-VL that answers a question about clips or pictures with numbers.

    Args:
        asked: What it is.
        options: The options ``architecture``, ``weights`` and ``tokeniser``.
        device: Where it lives.
        dtype: Of the towers' weights; the head stays in float32.
    """

    def __init__(
        self, asked: Asked, options: ScorerOptions, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        name, weights = asked.name, options.weights
        what = f"reward {name!r}"
        layout = architecture(options.architecture, asked.presets, needed_for=what)
        exact: dict[str, Tensor] = {}

        def convert(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            found = published(tensors, asked.lora_scale, what=what)
            exact.update({key: value.float() for key, value in found.items() if key.startswith("rm_head.")})
            return found

        self.model: Any = load_qwen(
            lambda: HeadedQwen(layout, asked.head),
            weights,
            asked.weights,
            device=device,
            dtype=dtype,
            needed_for=what,
            option=f"-o reward.{name}.weights=PATH",
            convert=convert,
        )
        self.model.rm_head.float()
        if exact:  # as the file has it, before it was rounded to the towers' dtype
            own = {key.removeprefix("rm_head."): value for key, value in exact.items()}
            self.model.rm_head.load_state_dict(own)
        vocabulary = int(layout["vocab_size"])
        place = options.tokeniser or ("random" if weights == "random" else "pretrained")
        words = tokeniser_of(place, asked.words, vocabulary, needed_for=what, more=asked.tokens)
        self.tokens = [_one(words.encode(token), token, vocabulary, what) for token in asked.tokens]
        tiny = options.architecture == "tiny"
        limits = (4 * 28 * 28, 16 * 28 * 28) if tiny else asked.pixels
        self.judge = QwenVL(self.model, words, pixels=limits, device=device, dtype=dtype, kind=asked.kind)
        self.device, self.question = device, question_of(name)

    def asked(self, prompt: str) -> str:
        """The question; a prompt is words, even where it looks like a special token's name."""
        return self.question.replace("{prompt}", without_specials(prompt))

    def answers(self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[str]) -> Float[Tensor, "b t d"]:
        """What the head makes of the states at the tokens, in float32: [B, tokens, outputs]."""
        patches, grid = self.judge.patches(video)
        ids, mask = self.judge.dialogue([self.asked(prompt) for prompt in prompts], grid)
        states = self.judge.hidden(patches, grid, ids, mask)
        places = torch.stack([(ids == token).int().argmax(dim=1) for token in self.tokens], dim=1)
        rows = torch.arange(len(ids))[:, None]
        with without_autocast(self.device):
            found: Tensor = self.model.rm_head(states[rows, places].float())
        return found


def question_of(name: str) -> str:
    """The text that a published model was trained to be asked, with ``{prompt}`` in it."""
    return files(__package__).joinpath("questions", f"{name}.txt").read_text(encoding="utf-8")


def published(
    tensors: Mapping[str, Tensor], lora_scale: Callable[[int], float] | None, *, what: str
) -> dict[str, Tensor]:
    """A published file's tensors by our names: without peft's, a LoRA merged, the head of words left out.

    Args:
        tensors: By the names of transformers 4 or 5, with or without peft's.
        lora_scale: What a LoRA counts with, from its rank.
        what: What asks, for messages.

    Raises:
        VaderError: There is a LoRA, and nothing says what it counts with, or one of another kind than a
            linear layer's.
    """
    named = {name.removeprefix(_WRAPPER): value for name, value in tensors.items()}
    named = {name.replace(_TRAINED, ""): value for name, value in named.items() if _BEFORE not in name}
    found = {name.replace(_BASE, ""): value for name, value in named.items() if ".lora_" not in name}
    for name, down in named.items():
        if ".lora_" not in name:
            continue
        module, _, rest = name.partition(".lora_")
        if rest.removeprefix("A").removeprefix("B").replace(_ADAPTER, "") != ".weight":
            raise VaderError(f"{what}: {name} belongs to a LoRA of a kind that is not read here")
        if rest.startswith("B"):
            continue
        if lora_scale is None:
            raise VaderError(f"{what}: the weights hold a LoRA ({name}), and this reward's have none")
        up, weight = named[name.replace(".lora_A", ".lora_B")], found[f"{module}.weight"]
        added = lora_scale(len(down)) * (up.float() @ down.float())
        found[f"{module}.weight"] = weight.float() + added
    return renamed({name: value for name, value in found.items() if not name.startswith("lm_head.")})


def rank_scale(alpha: float, *, by_root: bool) -> Callable[[int], float]:
    """What a LoRA counts with: alpha / rank, or alpha / sqrt(rank)."""
    return lambda rank: alpha / (math.sqrt(rank) if by_root else rank)


def _one(ids: list[int], token: str, vocabulary: int, what: str) -> int:
    if len(ids) != 1 or ids[0] >= vocabulary:
        raise VaderError(
            f"{what}: its tokenizer.json makes {ids} of {token}, and the model has {vocabulary} tokens: give "
            "the one of the model that it was tuned from"
        )
    return ids[0]
