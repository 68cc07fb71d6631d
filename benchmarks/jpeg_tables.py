"""How much of the demo's frames as JPEG files depends on the picture.

    python benchmarks/jpeg_tables.py

Everything up to the scan's data (markers, quantisation and Huffman tables, the frame's size) and the closing
marker are the same for every picture of one size and quality.
"""

from __future__ import annotations

import json
from io import BytesIO

import numpy
from checkout import registry_of_checkout, with_rewards
from PIL import Image

from vader_core.api.configure import complete
from vader_core.assembly.prepare import prepare
from vader_core.run.config import validated
from vader_core.run.layers import read_recipe

#: Markers of a file without a length, and the one after which the picture's own data begins.
START, END, SCAN = 0xD8, 0xD9, 0xDA


def constant_bytes(file: bytes) -> int:
    """Bytes of a baseline JPEG file that are not the scan's data."""
    at = 2  # behind the start marker
    while True:
        marker, length = file[at + 1], int.from_bytes(file[at + 2 : at + 4])
        at += 2 + length
        if marker == SCAN:
            return at + 2  # and the closing marker


def main() -> None:
    """Prints the constant bytes of two very different pictures, and the size of each."""
    registry = with_rewards(registry_of_checkout())
    assembly = prepare(complete(validated(read_recipe(registry, "demo_nft")), registry), registry)
    quality = int(registry.get("reward", "jpeg_size").config().quality)
    size = assembly.geometry.height, assembly.geometry.width
    noise = numpy.random.default_rng(0).integers(0, 256, (*size, 3)).astype(numpy.uint8)
    found = {}
    for name, picture in {"grey": numpy.full_like(noise, 128), "noise": noise}.items():
        stream = BytesIO()
        Image.fromarray(picture).save(stream, format="JPEG", quality=quality)
        file = stream.getvalue()
        found[name] = {"bytes": len(file), "constant": constant_bytes(file)}
    print(json.dumps({"height": size[0], "width": size[1], "quality": quality, **found}))


if __name__ == "__main__":
    main()
