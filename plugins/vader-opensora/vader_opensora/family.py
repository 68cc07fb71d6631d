"""What Open-Sora's versions share on the backbone contract: texts, sizes by name, frames that are given."""

from __future__ import annotations

import gc
import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vader_core.backbone import Backbone
from vader_core.conditioning import Conditioning
from vader_core.errors import VaderError
from vader_core.geometry import Geometry, GeometryRequest
from vader_core.nn.build import empty_module
from vader_core.nn.recompute import RecomputeSwitch
from vader_core.nn.t5 import T5TextEncoder, WordVectors
from vader_core.paths import entered
from vader_core.precision import wide
from vader_core.prompts import Prompt
from vader_core.text import Text, TextCache
from vader_core.weights import WeightFile, WeightSource, locate, parse_weights
from vader_opensora import checkpoint, kernels
from vader_opensora.captions import Request, parse_request
from vader_opensora.frame_masks import FRAME_MASK, REFERENCE, parse_strategy, place
from vader_opensora.options import FamilyOptions
from vader_opensora.references import read_reference
from vader_opensora.resolutions import image_size
from vader_opensora.weight_files import TEXT_ENCODER

#: Pixels along a side of one latent element.
SPATIAL = 8
#: Frames per second that the model is told of a single picture.
PICTURE_FPS = 120.0
#: Name of the number of tokens that count in every text, or ``None`` where texts differ.
TEXT_LENGTH = "text_length"
#: Prompts that go through T5 together.
TEXTS_AT_ONCE = 8
#: Tokens that texts are padded to a multiple of: every length of text is a CUDA graph of its own.
TEXT_UNIT = 32


class OpenSoraFamily(Backbone):
    """An Open-Sora: T5's texts with a stored null text, and frames that are given by masks.

    Args:
        options: The backbone's options.
        device: Where denoiser and autoencoder live.
        dtype: Of their weights.
    """

    takes_frame_masks: ClassVar[bool] = True

    options: FamilyOptions

    def __init__(self, options: FamilyOptions, *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(device=device, dtype=dtype)
        self.options = options
        self._text_encoder: Callable[[Sequence[str]], dict[str, Tensor]] | None = None
        self._keep_text_encoder = True
        self._recompute = RecomputeSwitch()
        self.text_cache = TextCache(self._text_key(), self._text_folder())

    # -- what the versions say ---------------------------------------------------------------------------

    @property
    @abstractmethod
    def text_size(self) -> tuple[int, int]:
        """Tokens and channels of a text."""

    @abstractmethod
    def prepared(self, text: str, *, negative: bool = False) -> str:
        """``text`` as the text encoder is to see it."""

    @abstractmethod
    def means(self, video: Tensor) -> Tensor:
        """Latents [b, c, t, h, w] of a video [b, f, 3, H, W] in [0, 1]: the means of the posterior."""

    #: Latent frames to whose multiples both ends of a placement are aligned; ``None`` aligns nothing.
    placement_unit: int | None = None

    # -- known before the weights are --------------------------------------------------------------------

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """VADER's: both inputs of cross-attention and the packed input of self-attention."""
        return ("qkv", "q_linear", "kv_linear")

    def named_size(self, request: GeometryRequest) -> GeometryRequest:
        """The request, once it is known not to contradict a size that the options name.

        Raises:
            VaderError: It does.
        """
        named = self.options.model_fields_set & {"resolution", "aspect_ratio"}
        wanted = image_size(self.options.resolution, self.options.aspect_ratio)
        for label, given, meant in zip(
            ("height", "width"), (request.height, request.width), wanted, strict=True
        ):
            if named and given is not None and given != meant:
                raise VaderError(
                    f"backbone {self.name!r}: --{label} {given} contradicts "
                    f"resolution={self.options.resolution} with aspect_ratio={self.options.aspect_ratio}, "
                    f"which is {wanted[0]} x {wanted[1]}: give one or the other"
                )
        return request

    def check_size(self, geometry: Geometry) -> None:
        """Refuse sides below 16 pixels and a rate that is not above 0.

        Raises:
            VaderError: Saying what is allowed.
        """
        for label, value in (("height", geometry.height), ("width", geometry.width)):
            if value < 2 * SPATIAL:
                raise VaderError(
                    f"backbone {self.name!r}: {label}={value} is not allowed: use 16 or more, "
                    f"e.g. {2 * SPATIAL}"
                )
        if not geometry.fps > 0:
            raise VaderError(
                f"backbone {self.name!r}: fps={geometry.fps:g} is not allowed: use a number above 0"
            )

    def video_size(self, geometry: Geometry) -> tuple[int, int]:
        """Each side rounded down to a multiple of 8."""
        return geometry.height // SPATIAL * SPATIAL, geometry.width // SPATIAL * SPATIAL

    # -- weights -----------------------------------------------------------------------------------------

    def source_of(self, given: str | None) -> str:
        """A part's weights: as given, or random where the denoiser's are, else pretrained."""
        return given or ("random" if self.options.weights == "random" else "pretrained")

    def fill(self, module: nn.Module, source: WeightSource, file: WeightFile, part: str, option: str) -> None:
        """Give ``module`` its values: random ones, or an official file's.

        Raises:
            VaderError: Weights that are missing or do not fit.
        """
        if source.kind == "random":
            checkpoint.draw_into(module, f"{self.name} {part}")
            return
        label = f"backbone {self.name!r} ({part})"
        checkpoint.read_into(module, checkpoint.weight_file(source, file, label=label, option=option), label)

    def empty_denoiser(self) -> Any:
        """The denoiser without weights; what time and place pass through is held in float32."""
        wider = wide(self.dtype)
        return empty_module(
            self.build_denoiser,
            device=self.device,
            dtype=self.dtype,
            keep=lambda model: cast(Any, model).keep_time_wide(wider),
        )

    def held_text_encoder(self) -> dict[str, nn.Module]:
        """T5 by its role, while it is loaded."""
        if isinstance(self._text_encoder, T5TextEncoder):
            return {"text_encoder": self._text_encoder.model}
        return {}

    # -- text --------------------------------------------------------------------------------------------

    def _text_key(self) -> str:
        weights = self.source_of(self.options.text_encoder_weights)
        words: list[object] = [weights, *self.text_size, self.options.text_encoder_dtype]
        folder = entered(weights)
        if folder.is_dir():
            files = sorted(file for file in folder.iterdir() if file.is_file())
            words += [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return f"{self.name} {words}"

    def _text_folder(self) -> Path | None:
        if self.source_of(self.options.text_encoder_weights) == "random":
            return self.options.text_cache
        if self.options.text_cache is not None:
            return entered(self.options.text_cache)
        root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return entered(root) / "vader" / "opensora-text"

    def encode_texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Run T5 on texts as they are: ``embeddings`` [n, l, 4096] and ``mask`` [n, l]."""
        if self._text_encoder is None:
            self._text_encoder = self._make_text_encoder()
        return self._text_encoder(texts)

    def _make_text_encoder(self) -> Callable[[Sequence[str]], dict[str, Tensor]]:
        length, channels = self.text_size
        label = f"backbone {self.name!r} (text encoder)"
        source = parse_weights(self.source_of(self.options.text_encoder_weights))
        if source.kind == "random":
            return WordVectors(max_length=length, channels=channels, key="opensora word")
        folder = locate(
            source,
            TEXT_ENCODER,
            needed_for=label,
            option="-o backbone.text_encoder_weights=FOLDER",
        )
        return T5TextEncoder(
            folder,
            device=torch.device(self.options.text_encoder_device or self.device),
            dtype=getattr(torch, self.options.text_encoder_dtype),
            max_length=length,
            channels=channels,
            label=label,
        )

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[Prompt]) -> Text:
        """Both sides of ``prompts``, each distinct text kept without its padding.

        Without a negative prompt the unconditional branch is the stored null text under the prompt's own
        mask.
        """
        positive = [self.prepared(prompt.text) for prompt in prompts]
        negative = [
            self.prepared(prompt.negative, negative=True) if prompt.negative else None for prompt in prompts
        ]
        wanted = dict.fromkeys([*positive, *(text for text in negative if text is not None)])
        missing = [text for text in wanted if self.text_cache.get(text) is None]
        for start in range(0, len(missing), TEXTS_AT_ONCE):
            part = missing[start : start + TEXTS_AT_ONCE]
            encoded = self.encode_texts(part)
            for text, row, mask in zip(part, encoded["embeddings"], encoded["mask"], strict=True):
                self.text_cache.put(text, {"embeddings": row[: int(mask.sum())]})
        if missing and not self._keep_text_encoder:
            self._drop_text_encoder()
        elif isinstance(self._text_encoder, T5TextEncoder):
            self._text_encoder.rest()
        rows = [self._kept(text) for text in positive]
        other = [row if text is None else self._kept(text) for row, text in zip(rows, negative, strict=True)]
        null = torch.tensor([text is None for text in negative], device=self.device)
        return Text(
            self._padded(rows) | {"null": torch.zeros_like(null)}, self._padded(other) | {"null": null}
        )

    def _kept(self, text: str) -> Tensor:
        held = self.text_cache.get(text)
        assert held is not None
        return held["embeddings"]

    def _padded(self, rows: Sequence[Tensor]) -> dict[str, Tensor]:
        masks = [torch.ones(len(row), dtype=torch.bool) for row in rows]
        return {
            "embeddings": pad_sequence(list(rows), batch_first=True).to(self.device),
            "mask": pad_sequence(masks, batch_first=True).to(self.device),
        }

    def release_text_encoder(self) -> None:
        """Free T5. A text that turns up later brings it back for that one call."""
        self._keep_text_encoder = False
        self._drop_text_encoder()

    def _drop_text_encoder(self) -> None:
        self._text_encoder = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    # -- conditioning ------------------------------------------------------------------------------------

    def text_branches(self, text: Text) -> tuple[dict[str, Tensor], dict[str, Tensor], int | None]:
        """Both branches' ``text`` and ``mask``, and how many tokens count where every text has as many.

        Known here once, so that no call of the denoiser has to look.
        """
        masks = text.positive["mask"], text.negative["mask"]
        length = max(mask.shape[1] for mask in masks)
        full = all(mask.shape[1] == length for mask in masks) and bool((masks[0] & masks[1]).all())
        padded = min(-(-length // TEXT_UNIT) * TEXT_UNIT, self.text_size[0])
        positive, negative = (self._branch(side, padded) for side in (text.positive, text.negative))
        return positive, negative, length if full else None

    def _branch(self, side: Mapping[str, Tensor], length: int) -> dict[str, Tensor]:
        missing = length - side["mask"].shape[1]
        embeddings = nn.functional.pad(side["embeddings"], (0, 0, 0, missing))
        denoiser: Any = self.denoiser
        null = denoiser.y_embedder.y_embedding[:length].to(embeddings.dtype)
        return {
            "text": torch.where(side["null"][:, None, None], null, embeddings),
            "mask": nn.functional.pad(side["mask"], (0, missing)),
        }

    def text_given(self, tensors: Mapping[str, Tensor], counted: int | None) -> tuple[Tensor, Tensor | None]:
        """Text and mask of one branch as the denoiser is to get them.

        Without a mask torch's fastest attention runs; the fused one is as fast with a mask.
        """
        if counted is None or kernels.reachable(tensors["text"].device, self.dtype):
            return tensors["text"], tensors["mask"]
        return tensors["text"][:, :counted], None

    def with_frame_mask(self, conditioning: Conditioning, mask: Bool[Tensor, "b t"]) -> Conditioning:
        """The conditioning of clips of which the frames that ``mask`` calls False are given."""
        other = conditioning.unconditional
        return replace(
            conditioning,
            tensors={**conditioning.tensors, FRAME_MASK: mask},
            unconditional=None if other is None else {**other, FRAME_MASK: mask},
        )

    def rounded(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """``numbers`` as they come out of the conditioning's dtype."""
        dtype: torch.dtype = getattr(torch, self.options.conditioning_dtype)
        return {name: float(torch.tensor(value, dtype=dtype)) for name, value in numbers.items()}

    def references(
        self, prompts: Sequence[Prompt], geometry: Geometry, image: Tensor | None
    ) -> tuple[dict[str, Tensor], bool]:
        """Frame mask and given latents by name, if any, and whether frames are edited.

        They come from ``image``, from a prompt's image, or from ``reference_path`` and ``mask_strategy`` in
        its metadata or at the end of its text.
        """
        requests = [self._request(prompt) for prompt in prompts]
        if image is not None:
            first = self.means(image[:, None])
            references = [[latents] for latents in first]
            strategies = [parse_strategy("0")] * len(prompts)
        else:
            references = [self._read(request, geometry) for request in requests]
            strategies = [parse_strategy(request.mask_strategy) for request in requests]
        if not any(strategies):
            return {}, False
        shape = (len(prompts), *self.latent_shape(geometry))
        empty = torch.zeros(shape, device=self.device, dtype=wide(self.dtype))
        latents, mask = place(empty, references, strategies, unit=self.placement_unit)
        edited = any(0.0 < one.edit < 1.0 for placements in strategies for one in placements)
        return {FRAME_MASK: mask, REFERENCE: latents}, edited

    @staticmethod
    def _request(prompt: Prompt) -> Request:
        said = parse_request(prompt.text)
        path = str(prompt.metadata.get("reference_path", said.reference_path))
        strategy = str(prompt.metadata.get("mask_strategy", said.mask_strategy))
        if prompt.image is not None and not path:
            path = str(prompt.image)
        if strategy and not path:
            raise VaderError(
                f"prompt {prompt.text!r}: mask_strategy {strategy!r} needs an image or a reference_path"
            )
        # A reference without a strategy is the first frame.
        return Request(said.text, path, strategy or ("0" if path else ""))

    def _read(self, request: Request, geometry: Geometry) -> list[Tensor]:
        paths = [entered(part) for part in request.reference_path.split(";") if part]
        latents = []
        for path in paths:
            frames = read_reference(path, geometry.height, geometry.width)
            latents.append(self.means(frames[None].to(self.device))[0])
        return latents
