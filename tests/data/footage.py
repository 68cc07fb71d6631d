"""Small films that tests draw: scenes with hard cuts, things that move at a known speed, copies."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

#: A scene's own light: far enough apart that a cut between two of them stands out.
LIGHTS = ((200, 60, 50), (40, 90, 200), (60, 190, 70), (220, 200, 60), (120, 40, 150), (230, 230, 230))


def texture(height, width, seed, contrast=25):
    """A smooth random picture in its own light, uint8 [H, W, 3]."""
    import cv2

    rng = np.random.default_rng(seed)
    small = (
        rng.integers(-contrast, contrast + 1, (height // 8 + 1, width // 8 + 1, 3))
        + LIGHTS[seed % len(LIGHTS)]
    )
    small = small.clip(0, 255).astype(np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def panning(frames, height=96, width=160, seed=0, speed=2, contrast=25):
    """Frames of a texture that passes at ``speed`` pixels per frame."""
    wide = texture(height, width + speed * frames, seed, contrast)
    return np.stack([wide[:, speed * place : speed * place + width] for place in range(frames)])


def numbered(frames, height=96, width=160):
    """Frames that say their own number: 10 bits as bright and dark fields along the top."""
    found = np.full((frames, height, width, 3), 90, np.uint8)
    for number in range(frames):
        for bit in range(10):
            value = 235 if number >> bit & 1 else 20
            found[number, : height // 2, bit * width // 10 : (bit + 1) * width // 10] = value
    return found


def number_of(frame):
    """The number that a frame of :func:`numbered` says."""
    height, width = frame.shape[:2]
    fields = [
        frame[height // 8 : height // 4, bit * width // 10 + 2 : (bit + 1) * width // 10 - 2].mean()
        for bit in range(10)
    ]
    return sum(1 << bit for bit, value in enumerate(fields) if value > 128)


def write(path: Path, frames, fps=25, crf=16, gop=25, times=None):
    """Write frames as a film; ``times`` gives each frame its own time in milliseconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf), "g": str(gop)})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def scenes(*lengths, seed=0, **shape):
    """Scenes of these lengths, each another texture, with hard cuts between them."""
    return np.concatenate(
        [panning(length, seed=seed + place, **shape) for place, length in enumerate(lengths)]
    )
