"""The small heads on CLIP's image embedding, with the key names of their published files."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

#: Position in the file's ``layers`` and width of each linear layer of the LAION aesthetic head, which rainy
#: and snowy share. The positions between held dropout.
AESTHETIC_LAYERS = ((0, 1024), (2, 128), (4, 64), (6, 16), (7, 1))
#: Likewise of compression_reward.pt. Two positions lie between its layers: ReLU, then dropout.
COMPRESSION_LAYERS = ((0, 512), (3, 128), (6, 32), (9, 1))


class Head(nn.Module):
    """Linear layers at given positions of ``layers``, with or without ReLU between them.

    Args:
        layers: (position, width) of each linear layer.
        relu: Whether a ReLU follows each layer but the last.
        width: Of the embedding.
    """

    def __init__(self, layers: Sequence[tuple[int, int]], *, relu: bool, width: int = 768) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        for position, out in layers:
            self.layers[str(position)] = nn.Linear(width, out)
            width = out
        self.relu = relu

    def forward(self, embeddings: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """One number an embedding."""
        values = embeddings
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers.values()):
            values = layer(values)
            if self.relu and index < last:
                values = values.relu()
        return values.squeeze(-1)


def aesthetic_head() -> Head:
    """768-1024-128-64-16-1 without activations: a linear map in five steps."""
    return Head(AESTHETIC_LAYERS, relu=False)


def compression_head() -> Head:
    """768-512-128-32-1 with ReLU."""
    return Head(COMPRESSION_LAYERS, relu=True)
