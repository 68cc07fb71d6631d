"""Contact sheets: one clip a row, its frames side by side under its caption."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

_LABEL_HEIGHT = 14


def write_contact_sheet(path: Path, video: Tensor, labels: list[str], columns: int = 2) -> None:
    """Write clips as a PNG.

    Args:
        path: where to write.
        video: (b, f, 3, H, W), RGB; clamped to [0, 1] here.
        labels: one line per clip.
        columns: clips side by side.
    """
    clips = (video.detach().float().clamp(0, 1) * 255 + 0.5).to(torch.uint8).cpu()
    _, frames, _, height, width = clips.shape
    cell_width, cell_height = frames * width + 4, height + _LABEL_HEIGHT
    rows = -(-len(clips) // columns)
    sheet = Image.new("RGB", (columns * cell_width, rows * cell_height), (20, 20, 20))
    drawing = ImageDraw.Draw(sheet)
    for index, (clip, label) in enumerate(zip(clips, labels, strict=True)):
        left, top = index % columns * cell_width, index // columns * cell_height
        strip = clip.permute(2, 0, 3, 1).reshape(height, frames * width, 3).numpy()
        drawing.text((left + 2, top + 1), label, fill=(235, 235, 235))
        sheet.paste(Image.fromarray(strip), (left, top + _LABEL_HEIGHT))
    sheet.save(path)
