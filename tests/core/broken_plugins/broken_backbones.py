"""Backbones with one defect each."""

import torch

from vader_core.prediction import Prediction
from vader_core.testing.tiny import TinyBackbone


class Detached(TinyBackbone):
    def predict(self, latents, timestep, conditioning):
        with torch.no_grad():
            return super().predict(latents, timestep, conditioning)


class Mixing(TinyBackbone):
    def predict(self, latents, timestep, conditioning):
        out = super().predict(latents, timestep, conditioning)
        return Prediction(out.value - 0.1 * out.value.mean(dim=0, keepdim=True))


class Thawed(TinyBackbone):
    def load(self):
        super().load()
        self.autoencoder.requires_grad_(True)


class Eager(TinyBackbone):
    def __init__(self, config, *, device, dtype):
        super().__init__(config, device=device, dtype=dtype)
        self.load()


class Clamping(TinyBackbone):
    def decode(self, latents, geometry, frames=None):
        return super().decode(latents, geometry, frames).clamp(0, 1)


class Sorting(TinyBackbone):
    def decode(self, latents, geometry, frames=None):
        return super().decode(latents, geometry, None if frames is None else sorted(frames))


class Shifted(TinyBackbone):
    def decode(self, latents, geometry, frames=None):
        last = geometry.num_frames - 1
        wanted = None if frames is None else [min(frame + 1, last) for frame in frames]
        return super().decode(latents, geometry, wanted)


class HalfRecomputed(TinyBackbone):
    def decode(self, latents, geometry, frames=None):
        if self.gradient_checkpointing and frames is not None:
            latents = (latents + latents.detach()) / 2
        return super().decode(latents, geometry, frames)


class Hoarding(TinyBackbone):
    def predict(self, latents, timestep, conditioning):
        with self.checkpointing(False):
            return super().predict(latents, timestep, conditioning)


class Boundless(TinyBackbone):
    def validate(self, geometry):
        pass


class Timeless(TinyBackbone):
    def predict(self, latents, timestep, conditioning):
        return super().predict(latents, torch.zeros_like(timestep), conditioning)


class Blind(TinyBackbone):
    def condition(self, text, prompts, geometry, rng, *, image=None):
        return super().condition(text, prompts, geometry, rng)


class Chancy(TinyBackbone):
    def initial_noise(self, batch, geometry, rng):
        return torch.randn(batch, *self.latent_shape(geometry), device=self.device)


class Narrow(TinyBackbone):
    def predict(self, latents, timestep, conditioning):
        return Prediction(super().predict(latents, timestep, conditioning).value.to(self.dtype).clone())


class Mistargeted(TinyBackbone):
    @property
    def lora_targets(self):
        return ("to_q", "to_key")


class Overwriting(TinyBackbone):
    def predict(self, latents, timestep, conditioning):
        out = super().predict(latents, timestep, conditioning)
        conditioning.tensors["fps"].add_(1)
        return out


class HalfBuilt(TinyBackbone):
    def build_denoiser(self):
        from vader_core.testing.tiny_networks import TinyDenoiser

        on_meta = torch.empty(0).is_meta
        return TinyDenoiser(self.config.width, self.config.depth + on_meta * (not hasattr(self, "ever")), 1.0)

    def load(self):
        self.ever = True
        super().load()


class Nested(TinyBackbone):
    def blocks(self):
        blocks = super().blocks()
        return [*blocks, next(blocks[0].children())]


class Careless(TinyBackbone):
    def encode_video(self, video, rng):
        latents = super().encode_video(video, rng)
        return latents + 0.1 * torch.randn_like(latents)


class Recording(TinyBackbone):
    def encode_video(self, video, rng):
        return super().encode_video(video, rng) + 0 * video.sum()
