"""Synthetic clips: every frame says its own number."""

from __future__ import annotations

import av
import numpy as np
import pytest


def _write_clip(path, frames, height, width, fps=10):
    """An mp4 whose frame n is grey of level 8 n + 8 on the left and black on the right; index first."""
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream(
            "libx264", rate=fps, options={"crf": "1", "preset": "ultrafast", "g": "6"}
        )
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv444p"
        for number in range(frames):
            picture = np.zeros((height, width, 3), dtype=np.uint8)
            picture[:, : width // 2] = 8 * (number % 31) + 8
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def _numbers(pixels):
    """Which frames these are."""
    left = pixels[..., : pixels.shape[-1] // 4].float()
    left = left * 255 if float(left.max()) <= 1 else left
    return ((left.mean(dim=(1, 2, 3)) - 8) / 8).round().int().tolist()


@pytest.fixture
def clip(tmp_path):
    """Thirty frames at 10 fps, 32 x 48."""
    return _write_clip(tmp_path / "clip.mp4", 30, 32, 48)


@pytest.fixture
def write_clip():
    return _write_clip


@pytest.fixture
def numbers():
    return _numbers


@pytest.fixture(scope="session")
def write_clip_once():
    return _write_clip
