"""The files that the plugin wants."""

from __future__ import annotations

from vader_core.weights import WeightFile

#: What the authors say that a model's folder takes, to a tenth of a gigabyte.
_SIZE = 16_200_000_000
#: A whole model folder each: ``transformer``, ``vae``, ``text_encoder``, ``tokenizer``.
MODELS = {
    "512": WeightFile(
        "alibaba-pai/EasyAnimateV2-XL-2-512x512",
        size=_SIZE,
        note="transformer, MagViT autoencoder, T5-XXL",
        when=(("architecture", (None, "512")),),
    ),
    "768": WeightFile(
        "alibaba-pai/EasyAnimateV2-XL-2-768x768",
        size=_SIZE,
        note="transformer, MagViT autoencoder, T5-XXL",
        when=(("architecture", ("768",)),),
    ),
}

#: The file in a part's folder.
TENSORS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
CONFIG = "config.json"
