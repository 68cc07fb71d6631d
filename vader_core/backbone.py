"""The backbone contract: a video diffusion model."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vader_core.conditioning import Conditioning
from vader_core.device import to_device
from vader_core.errors import VaderError
from vader_core.geometry import Geometry, GeometryRequest
from vader_core.precision import wide
from vader_core.prediction import Prediction
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.schedule import Schedule
from vader_core.text import Text, TextCache

if TYPE_CHECKING:
    from vader_core.unread import Unread


@dataclass(frozen=True)
class Defaults:
    """What a backbone uses where the user says nothing.

    Args:
        geometry: The training geometry.
        num_steps: Sampling steps S.
        guidance_scale: One number, or (first, last) for a scale that runs linearly over the latent frames.
        sampler: Name of the sampler.
        sampler_options: Options of that sampler.
        guidance_channels: Guidance mixes the first n latent channels and leaves the others to the
            conditional branch; ``None`` mixes all.
        guidance: What ``--guidance-scale`` means: ``classifier_free`` mixes two branches; ``embedded`` is
            told to the model, as ``conditioning.shared["guidance"]``, and there is one branch.
        gradient: Where the gradient flows, in the words of ``--gradient``.
        reward_frames: Which frames a reward sees, in the words of ``--reward-frames``, where some are cheaper
            to decode than others; ``None`` leaves it to the objective.
        sample_frames: Frames of ``vader sample`` where they differ from training.
        negative_prompt: Text of the unconditional branch.
        precision: ``fp32``, ``bf16`` or ``fp16`` on an accelerator; on a CPU the default is always ``fp32``.
        prompts: Name of the prompt source for a bare run.
    """

    geometry: Geometry
    num_steps: int
    guidance_scale: float | tuple[float, float]
    sampler: str
    sampler_options: Mapping[str, Any] = field(default_factory=dict)
    guidance_channels: int | None = None
    guidance: Literal["classifier_free", "embedded"] = "classifier_free"
    gradient: str = "last"
    reward_frames: str | None = None
    sample_frames: int | None = None
    negative_prompt: str = ""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    prompts: str | None = None


class Mixing(Protocol):
    """How two branches become one prediction, as the run asks for."""

    @property
    def scale(self) -> float | tuple[float, float]:
        """The scale s, or the first and last of a scale that runs over the latent frames."""

    def combine(
        self, conditional: Prediction, unconditional: Prediction, scale: float | None = None
    ) -> Prediction:
        """Unconditional + s (conditional - unconditional); ``scale`` takes the place of s."""


class Backbone(ABC):
    """A video diffusion model, in two stages.

    The constructor is cheap: configuration, defaults, LoRA targets, the schedule and every check of a
    geometry work at once. :meth:`load` builds the modules on ``device`` and reads the weights; only then do
    ``denoiser`` and the methods below it work. All modules are in eval mode and frozen; the core attaches the
    LoRA to ``denoiser``.

    Args:
        device: Where the modules live.
        dtype: Of the frozen weights while computing.
    """

    #: The registered name.
    name: ClassVar[str]
    #: Whether ``decode(…, frames)`` gives exactly the full decode's frames.
    decode_is_exact: ClassVar[bool] = True
    #: Whether every prompt needs an image.
    needs_image: ClassVar[bool] = False
    #: Whether the prompts' texts reach the model; one that reads none may refuse a negative prompt.
    reads_text: ClassVar[bool] = True
    #: Whether :meth:`condition` can start from an image, so that a segment can continue another.
    takes_image: ClassVar[bool] = False
    #: Whether :meth:`with_frame_mask` works: the model can be trained with frames that are given.
    takes_frame_masks: ClassVar[bool] = False
    #: Whether the denoiser is faster on CUDA with its convolutions' channels innermost.
    prefers_channels_last: ClassVar[bool] = False
    #: Whether the denoiser runs its deep part through :mod:`vader_core.nn.feature_cache`.
    caches_features: ClassVar[bool] = False
    #: Further branches that :meth:`combine` mixes in: each is a call of :meth:`predict` with the conditional
    #: branch's tensors, told by ``conditioning.shared["branch"]``.
    further_branches: tuple[str, ...] = ()

    denoiser: nn.Module

    def __init__(self, *, device: torch.device, dtype: torch.dtype) -> None:
        self.device = torch.device(device)
        self.dtype = dtype
        #: Recompute activations in the backward pass; has an effect only where gradients are recorded.
        self.gradient_checkpointing = False
        #: Told before :meth:`load`: the denoiser's weights may be left in their files until it is cut.
        self.may_leave_unread = False
        self.unread: Unread | None = None  # where they were
        self.text_cache = TextCache(type(self).__name__)

    # -- known before the weights are ------------------------------------------------------------------

    @property
    @abstractmethod
    def defaults(self) -> Defaults:
        """What is used where the user says nothing."""

    def default_gradient(self, num_steps: int) -> str:
        """Where the gradient flows by default with ``num_steps`` steps, in the words of ``--gradient``.

        A model whose best step depends on their number overrides this.
        """
        return self.defaults.gradient

    @property
    @abstractmethod
    def schedule(self) -> Schedule:
        """The noise schedule; its ``prediction_type`` says what :meth:`predict` returns."""

    def schedule_for(self, geometry: Geometry) -> Schedule:
        """The noise schedule of videos of ``geometry``, for a model whose times depend on their size."""
        return self.schedule

    @property
    @abstractmethod
    def lora_targets(self) -> tuple[str, ...]:
        """Module names that get a LoRA by default.

        The end of a dotted name, as peft has it; a name with ``*`` is a pattern of whole names.
        """

    def resolve_geometry(self, request: GeometryRequest) -> Geometry:
        """The user's request, filled up from the defaults and checked.

        Raises:
            VaderError: A form this backbone does not know, or a geometry it cannot make.
        """
        base = self.defaults.geometry
        frames = base.num_frames if request.num_frames is None else request.num_frames
        if isinstance(frames, str):
            if not frames.isdigit():
                raise VaderError(f"backbone {self.name!r}: num_frames={frames!r} is not a whole number")
            frames = int(frames)
        geometry = Geometry(
            height=base.height if request.height is None else request.height,
            width=base.width if request.width is None else request.width,
            num_frames=frames,
            fps=base.fps if request.fps is None else request.fps,
        )
        self.validate(geometry)
        return geometry

    @property
    def small_geometry(self) -> Geometry:
        """A video that is cheap to make, for the contract's clauses; by default the default one."""
        return self.defaults.geometry

    @abstractmethod
    def validate(self, geometry: Geometry) -> None:
        """Refuse a geometry that the model cannot make, naming the nearest that it can.

        Raises:
            VaderError: Saying what is allowed.
        """

    @abstractmethod
    def latent_shape(self, geometry: Geometry) -> tuple[int, int, int, int]:
        """(C, T, h, w) of one sample's latents."""

    def video_size(self, geometry: Geometry) -> tuple[int, int]:
        """Height and width of a decoded video in pixels.

        They are the geometry's own, unless the model's autoencoder rounds them down to its multiples.
        """
        return geometry.height, geometry.width

    @abstractmethod
    def build_denoiser(self) -> nn.Module:
        """A fresh denoiser without weights, on torch's current default device (``meta`` for counting)."""

    def check_text(self, text: str) -> None:  # noqa: B027 - most encoders take any text
        """Called for every text of a run before anything is loaded.

        Raises:
            VaderError: The model cannot read it; says what it can read.
        """

    # -- after load --------------------------------------------------------------------------------------

    @abstractmethod
    def load(self) -> None:
        """Build every module and read the weights; frozen, in eval mode, on ``device``.

        Raises:
            VaderError: Weights that are missing, gated or do not fit, naming what was wanted.
        """

    @abstractmethod
    def encode_texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Run the text encoder on texts that are not cached: tensors [N, …] by name, without a graph."""

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[Prompt]) -> Text:
        """Both sides of ``prompts``, each distinct text encoded once and kept."""
        positive, usual = [prompt.text for prompt in prompts], self.defaults.negative_prompt
        negative = [usual if prompt.negative is None else prompt.negative for prompt in prompts]
        missing = [text for text in dict.fromkeys(positive + negative) if self.text_cache.get(text) is None]
        if missing:
            encoded = self.encode_texts(missing)
            for row, text in enumerate(missing):
                self.text_cache.put(text, {name: value[row] for name, value in encoded.items()})
        return Text(self._stack(positive), self._stack(negative))

    def _stack(self, texts: Sequence[str]) -> dict[str, Tensor]:
        rows = [self.text_cache.get(text) or {} for text in texts]
        return {name: to_device(torch.stack([row[name] for row in rows]), self.device) for name in rows[0]}

    def release_text_encoder(self) -> None:  # noqa: B027 - a backbone whose encoder is small keeps it
        """Called when every prompt of the run is encoded; frees the encoder where that saves memory."""

    @abstractmethod
    def condition(
        self,
        text: Text,
        prompts: Sequence[Prompt],
        geometry: Geometry,
        rng: Randomness,
        *,
        image: Float[Tensor, "b 3 H W"] | None = None,
    ) -> Conditioning:
        """All that :meth:`predict` is given, with its unconditional branch.

        Args:
            text: From :meth:`encode_text`.
            prompts: The same prompts (their images, their metadata).
            geometry: A validated geometry.
            rng: For models whose conditioning is noised.
            image: First frames in [0, 1] that take the place of the prompts' images (long video); may carry a
                graph.
        """

    def initial_noise(self, batch: int, geometry: Geometry, rng: Randomness) -> Float[Tensor, "b c t h w"]:
        """Standard normal latents, float32 (float64 for a float64 backbone), one stream per sample."""
        shape, dtype = self.latent_shape(geometry), wide(self.dtype)
        noise = rng.normal("noise", shape, device=self.device, dtype=dtype)
        if len(noise) != batch:
            raise VaderError(f"{batch} prompts need a Randomness with as many samples, not {len(noise)}")
        return noise

    @abstractmethod
    def predict(
        self, latents: Float[Tensor, "b c t h w"], timestep: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Prediction:
        """One unguided call of the denoiser, over whatever the batch holds.

        As a rule that is both guidance branches.

        Args:
            latents: Float32 (float64 for a float64 backbone).
            timestep: In the model's own units, as the sampler planned them; float32 (float64 likewise).
            conditioning: A single branch: only ``tensors`` and ``shared`` are read.
        """

    def combine(
        self,
        conditional: Prediction,
        unconditional: Prediction,
        mixing: Mixing,
        latents: Float[Tensor, "b c t h w"],
        timestep: Float[Tensor, " b"],
        **further: Prediction,
    ) -> Prediction:
        """The guided prediction; a model with a rule of its own overrides this.

        Args:
            conditional: That branch's prediction.
            unconditional: That branch's; the conditional one again where the scale is 1.
            mixing: The usual rule, with the scale that was asked for.
            latents: What both branches were given.
            timestep: What both branches were told.
            further: The predictions of :attr:`further_branches`, by name.
        """
        return mixing.combine(conditional, unconditional)

    def at_timestep(self, timestep: float) -> AbstractContextManager[None]:
        """Around predictions at one timestep that the host knows, so that no device is asked for it."""
        return nullcontext()

    def before_decode(
        self, latents: Float[Tensor, "b c t h w"], conditioning: Conditioning
    ) -> Float[Tensor, "b c t h w"]:
        """Clean latents as :meth:`decode` wants them: a picture's own put back, a decoder's noise mixed in.

        Args:
            latents: Clean latents, with their graph.
            conditioning: What they were made from.
        """
        return latents

    @abstractmethod
    def decode(
        self, latents: Float[Tensor, "b c t h w"], geometry: Geometry, frames: Sequence[int] | None = None
    ) -> Float[Tensor, "b f 3 H W"]:
        """The video, differentiable, RGB nominally in [0, 1], not clamped.

        Args:
            latents: Clean latents.
            geometry: The geometry they were made for.
            frames: Video frame indices to decode, in this order; ``None`` is all. No more than they need is
                decoded.
        """

    def encode_video(self, video: Float[Tensor, "b f 3 H W"], rng: Randomness) -> Float[Tensor, "b c t h w"]:
        """Latents of a video, scaled as the denoiser wants them, without a graph.

        Args:
            video: RGB in [0, 1], of a size that the autoencoder takes.
            rng: For an autoencoder whose posterior is drawn from; one stream per sample.

        Raises:
            VaderError: The backbone ships no encoder.
        """
        raise VaderError(f"backbone {self.name!r} has no encoder")

    @property
    def encodes_video(self) -> bool:
        """Whether :meth:`encode_video` works: the model can learn from clips. Known before loading."""
        return type(self).encode_video is not Backbone.encode_video

    def training_shift(self, geometry: Geometry) -> float:
        """How much more noise clips of this size are trained at: r in tau' = r tau / (1 + (r - 1) tau).

        Beside the schedule's own shift; only for a rectified flow. 1 by default.
        """
        return 1.0

    def with_frame_mask(self, conditioning: Conditioning, mask: Bool[Tensor, "b t"]) -> Conditioning:
        """The conditioning of clips of which some latent frames are given.

        Args:
            conditioning: From :meth:`condition`.
            mask: True = generated.

        Raises:
            VaderError: The model cannot be given single frames.
        """
        raise VaderError(f"backbone {self.name!r} cannot be given single frames")

    def to_official(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The denoiser's whole state under the official checkpoint's names; they are its own by default."""
        return dict(tensors)

    def from_official(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of :meth:`to_official`."""
        return dict(tensors)

    def official_config(self, denoiser: nn.Module) -> Mapping[str, Any] | None:
        """What ``config.json`` beside the denoiser's official weights says, or ``None`` where it has none.

        By default that of a model of diffusers' kind.

        Args:
            denoiser: Built; its weights are not looked at.
        """
        written = getattr(denoiser, "to_json_string", None)
        return None if written is None else dict(json.loads(written()))

    def modules(self) -> dict[str, nn.Module]:
        """Every loaded module by its role: ``denoiser``, ``autoencoder``, ``text_encoder`` …."""
        return {"denoiser": self.denoiser}

    def blocks(self) -> list[nn.Module]:
        """The denoiser's blocks, in the order of their use: the units of checkpointing, swapping, sharding.

        None within another. By default those of :func:`vader_core.nn.recompute.recompute_blocks`; a backbone
        that checkpoints by itself names its own.
        """
        return [module for module in self.denoiser.modules() if hasattr(module, "recompute_switch")]

    def decoders(self) -> list[nn.Module]:
        """Networks that :meth:`decode` gives one shape at every training step; none by default."""
        return []

    def experts(self) -> list[nn.Module]:
        """Parts of the denoiser of which a prediction uses one, so the others may rest; by default none."""
        return []

    # -- over several processes --------------------------------------------------------------------------

    def check_sequence(self, parts: int, geometry: Geometry) -> None:
        """Refuse to share a video's sequence with other processes; before loading.

        Args:
            parts: How many would share it.
            geometry: Of the videos.

        Raises:
            VaderError: The network cannot, or not into so many parts.
        """
        raise VaderError(
            f"parallel.context={parts}: backbone {self.name!r} cannot split its sequence over processes: "
            "leave it out; more processes then make more videos"
        )

    def split_sequence(self, mesh: Any) -> None:
        """From now on :meth:`predict` computes this process's share of the tokens; after loading.

        The latents that it takes and gives stay whole. Backwards each process has the gradient of its own
        tokens alone, and the sum over the processes is the whole.

        Args:
            mesh: Torch's device mesh of those that share, with the dimensions ``ring`` (1) and ``ulysses``.
        """
        raise VaderError(f"backbone {self.name!r} cannot split its sequence")

    @contextmanager
    def checkpointing(self, on: bool) -> Iterator[None]:
        """Within, :attr:`gradient_checkpointing` is ``on``."""
        before = self.gradient_checkpointing
        self.gradient_checkpointing = on
        try:
            yield
        finally:
            self.gradient_checkpointing = before
