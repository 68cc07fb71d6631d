"""Wan 2.1, 2.2 A14B and TI2V 5B, picture to video."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vader_core.conditioning import Conditioning
from vader_core.geometry import Geometry
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.text import Text
from vader_diffusers.parts import autocast_for
from vader_diffusers.pictures import encoder_pixels, first_frames, last_pictures, opened, squeezed
from vader_diffusers.published_models import DEFAULT
from vader_diffusers.wan import Wan

#: Tokens of CLIP's ViT-H at its own size, for pipelines without weights.
_PICTURE_TOKENS = 257


class WanImage(Wan):
    """Wan from a first frame: beside the latents (2.1, A14B), in their place (5B), and through CLIP (2.1)."""

    name = "wan_i2v"
    pipelines = ("WanImageToVideoPipeline", "WanPipeline")
    model = DEFAULT["wan_i2v"]
    needs_image = True
    takes_image = True

    def _check_kind(self) -> None:
        super()._check_kind()
        beside = int(self.network["in_channels"]) > self.latent_channels
        if not (beside or self.source.index.get("expand_timesteps")):
            from vader_core.errors import VaderError

            raise VaderError(
                f"{self.asks}: {self.source.where or self.config.architecture} makes videos from text alone: "
                "use --backbone wan"
            )

    @property
    def in_place(self) -> bool:
        """Whether the first latent frame is the picture's own (5B)."""
        return bool(self.source.index.get("expand_timesteps"))

    def condition(
        self,
        text: Text,
        prompts: Sequence[Prompt],
        geometry: Geometry,
        rng: Randomness,
        *,
        image: Tensor | None = None,
    ) -> Conditioning:
        """The texts, the picture's latents with their mask, and CLIP's tokens where the model reads them."""
        pictures = first_frames(prompts, image, geometry, needed_for=self.asks).to(self.device)
        last = None if self.in_place else last_pictures(prompts, needed_for=self.asks)
        ends = None
        if last is not None:
            ends = torch.stack([squeezed(picture, geometry) for picture in last]).to(pictures)
        shared = {"geometry": geometry}
        extra = {"picture": self._beside(pictures, ends, geometry)}
        if self.network.get("image_dim"):
            files = opened(prompts, needed_for=self.asks) if image is None else None
            seen = [self._seen(pictures, files)]
            if last is not None and ends is not None:
                seen.append(self._seen(ends, last))
            extra["seen"] = torch.cat(seen, dim=1)
        return Conditioning({**text.positive, **extra}, {**text.negative, **extra}, shared)

    def _beside(self, pictures: Tensor, ends: Tensor | None, geometry: Geometry) -> Tensor:
        """The first latent frame alone, or the latents of the picture and grey frames behind it, masked.

        Where the video is to end with a picture, that one is the last frame.
        """
        signed = (pictures * 2 - 1).to(self.vae.dtype)[:, :, None]
        given = [0]
        if not self.in_place:
            behind = signed.new_zeros(*signed.shape[:2], geometry.num_frames - 1, *signed.shape[3:])
            if ends is not None:
                behind[:, :, -1] = (ends * 2 - 1).to(behind)
                given.append(geometry.num_frames - 1)
            signed = torch.cat([signed, behind], dim=2)
        with autocast_for(self.vae):
            encoded = self.vae.encode(signed).latent_dist.mode()
        latents = self.scaled(encoded.to(pictures.dtype))
        if self.in_place:
            return latents
        times = self.compression[0]
        mask = latents.new_zeros(len(latents), times, *latents.shape[2:])
        for frame in given:
            # the first frame has a latent frame of its own, so it fills the mask's
            channels = slice(None) if frame == 0 else slice((frame - 1) % times, (frame - 1) % times + 1)
            mask[:, channels, (frame + times - 1) // times] = 1.0
        return torch.cat([mask, latents], dim=1)

    def _seen(self, pictures: Tensor, files: Sequence[Image.Image] | None) -> Tensor:
        """CLIP's last layer but one [B, tokens, d]; with random weights, numbers that follow the picture.

        Args:
            pictures: In the video's shape.
            files: The same as they are on the disk, which is how the pipeline's own processor wants them;
                ``None`` for frames of another video, which may carry a graph.
        """
        if self.source.where is None:
            width = int(self.network["image_dim"])
            blocks = torch.nn.functional.adaptive_avg_pool2d(pictures, (_PICTURE_TOKENS, width))
            return (blocks.mean(dim=1) * 2 - 1).to(self.dtype)
        encoder = self.pipe.image_encoder
        if files is None:
            given = encoder_pixels(pictures.float(), encoder.config.image_size, self._preprocessor())
        else:
            given = self.pipe.image_processor(images=list(files), return_tensors="pt").pixel_values
        out = encoder(pixel_values=given.to(self.device, encoder.dtype), output_hidden_states=True)
        return out.hidden_states[-2].to(self.dtype)

    def _preprocessor(self) -> dict[str, Any]:
        processor = self.pipe.image_processor
        return {name: getattr(processor, name, None) for name in ("image_mean", "image_std")}

    def call(self, network: Any, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """The velocity; tokens of the picture are told time 0 where it stands in the latents' place."""
        given = conditioning.tensors
        picture = given["picture"].to(latents.dtype)
        if not self.in_place:
            out = network(
                torch.cat([latents, picture], dim=1),
                timestep,
                given["text"],
                self._tokens(given.get("seen")),
                return_dict=False,
            )
            return out[0]
        frames, places = latents.shape[2], (latents.shape[3] // 2) * (latents.shape[4] // 2)
        times = timestep[:, None].expand(-1, frames * places).clone()
        times[:, :places] = 0.0
        placed = torch.cat([picture, latents[:, :, 1:]], dim=2)
        return network(placed, times, given["text"], return_dict=False)[0]

    def _tokens(self, seen: Tensor | None) -> Tensor | None:
        """What CLIP saw; of two pictures per video, one after the other along the batch."""
        if seen is None or not self.network.get("pos_embed_seq_len"):
            return seen
        tokens = int(self.network["pos_embed_seq_len"]) // 2
        return seen.reshape(-1, tokens, seen.shape[2])

    def before_decode(self, latents: Tensor, conditioning: Conditioning) -> Tensor:
        """The picture's own latent frame put back, where it stood in the latents' place."""
        if not self.in_place:
            return latents
        picture = conditioning.tensors["picture"].to(latents.dtype)
        return torch.cat([picture, latents[:, :, 1:]], dim=2)
