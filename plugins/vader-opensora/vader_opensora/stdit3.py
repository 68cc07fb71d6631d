"""STDiT3, the denoiser of Open-Sora 1.2, under its official key names."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vader_core.precision import without_autocast
from vader_opensora.architecture import STDiT3Config
from vader_opensora.blocks import FinalLayer, STDiT3Block
from vader_opensora.embeddings import (
    CaptionEmbedder,
    PatchEmbedder,
    RotaryFrequencies,
    ScalarEmbedder,
)
from vader_opensora.latent_transformer import LatentTransformer


class STDiT3(LatentTransformer):
    """A spatial-temporal diffusion transformer for video latents.

    Args:
        config: Sizes.
    """

    def __init__(self, config: STDiT3Config) -> None:
        channels = config.in_channels * (2 if config.pred_sigma else 1)
        super().__init__(config.patch_size, channels, config.input_sq_size)
        self.config = config
        width = config.hidden_size

        self.rope = RotaryFrequencies(width // config.num_heads)
        self.x_embedder = PatchEmbedder(config.in_channels, width, self.patch)
        self.t_embedder = ScalarEmbedder(width)
        self.fps_embedder = ScalarEmbedder(width)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.y_embedder = CaptionEmbedder(config.caption_channels, width, config.model_max_length)
        self.spatial_blocks = nn.ModuleList(STDiT3Block(config, temporal=False) for _ in range(config.depth))
        self.temporal_blocks = nn.ModuleList(STDiT3Block(config, temporal=True) for _ in range(config.depth))
        self.final_layer = FinalLayer(width, self.patch, self.out_channels)

    def keep_time_wide(self, dtype: torch.dtype) -> STDiT3:
        """Hold what time and place pass through in ``dtype``, whatever the other weights have.

        Timesteps rounded to bfloat16 move the prediction by about a tenth; these modules are 1 % of the
        weights.
        """
        for module in (self.rope, self.t_embedder, self.fps_embedder, self.t_block):
            module.to(dtype)
        return self

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        text: Tensor,
        text_mask: Tensor | None = None,
        frame_mask: Tensor | None = None,
        *,
        fps: Tensor,
        size: tuple[float, float],
        recompute: bool = False,
    ) -> Tensor:
        """Predict the velocity x0 - noise in the first half of the channels.

        Args:
            latents: [b, c, t, h, w], any sizes: padded to the patch and cropped back.
            timesteps: [b] in 0 … 1000.
            text: [b, l, caption_channels].
            text_mask: [b or a divisor of it, l], nonzero where a token counts; ``None`` counts all. Fewer
                rows are repeated in order until the batch is full.
            frame_mask: [b, t] bool, True where a frame is being generated, False where it is given (told
                timestep 0).
            fps: [b or a divisor of it].
            size: Height and width in pixels, as told to the model.
            recompute: Keep each block's input alone and compute the rest again in the backward pass.

        Returns:
            [b, 2 c, t, h, w] (c without ``pred_sigma``) in float32 (float64 for a float64 model).
        """
        latent_size = latents.shape[2:]
        dtype = self.x_embedder.proj.weight.dtype
        tokens = self.x_embedder(self.padded(latents).to(dtype))
        grid = tokens.shape[1:4]
        tokens = tokens.flatten(2, 3) + self.position(grid[1], grid[2], size, tokens)

        time, modulation, time_zero = self._time(timesteps, fps, frame_mask)
        mask = self.text_mask(text_mask, len(latents))
        caption = self.y_embedder(text.to(dtype))
        rotation = self.rope(grid[0])
        shared = (caption, modulation, mask)
        blocks = [
            one
            for spatial, temporal in zip(self.spatial_blocks, self.temporal_blocks, strict=True)
            for one in ((spatial, (*shared, None)), (temporal, (*shared, rotation)))
        ]
        tokens = self.through_blocks(tokens, blocks, recompute=recompute)
        tokens = self.final_layer(tokens, time, time_zero, frame_mask)
        return self.unpatched(tokens, grid, latent_size)

    # -- parts of the forward pass -----------------------------------------------------------------------

    def _time(
        self, timesteps: Tensor, fps: Tensor, frame_mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        batch = len(timesteps)
        # Autocast would round the timestep on its way in.
        with without_autocast(timesteps.device):
            rate = self.fps_embedder(fps.repeat(batch // len(fps)))
            time = self.t_embedder(timesteps) + rate
            modulation = self.t_block(time).unflatten(-1, (6, -1))[:, None]
            if frame_mask is None:
                return time, modulation, None
            time_zero = self.t_embedder(torch.zeros_like(timesteps)) + rate
            kept = self.t_block(time_zero).unflatten(-1, (6, -1))[:, None]
        return time, torch.where(frame_mask[:, :, None, None], modulation, kept), time_zero
