"""Pictures drawn by this plugin, as first frames that need no download and no licence.

Each is painted back to front from soft-edged shapes in coordinates that do not depend on the resolution: x
runs from -aspect to aspect, y from -1 (top) to 1 (bottom).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vader_core.files import replacing
from vader_core.prompts import Prompt, PromptSource, shuffled_index
from vader_svd.options import DemoImagesConfig

Plane = NDArray[np.float64]
Colour = tuple[float, float, float]

#: Part of every file name: raise it when a drawing changes, so that old files are not taken for new ones.
EDITION = 1


class Canvas:
    """A picture being painted.

    Args:
        height: Pixels.
        width: Pixels.
    """

    def __init__(self, height: int, width: int) -> None:
        aspect = width / height
        rows = (np.arange(height) + 0.5) / height * 2 - 1
        columns = ((np.arange(width) + 0.5) / width * 2 - 1) * aspect
        self.x, self.y = np.meshgrid(columns, rows)
        self.pixel = 2.0 / height
        self.pixels: Plane = np.zeros((height, width, 3))

    def sky(self, top: Colour, bottom: Colour) -> None:
        """Fill everything, ``top`` fading into ``bottom``."""
        share = ((self.y + 1) / 2)[..., None]
        self.pixels = np.array(top) * (1 - share) + np.array(bottom) * share

    def paint(self, distance: Plane, colour: Colour, softness: float = 0.0) -> None:
        """Lay ``colour`` where ``distance`` (to a shape's edge, negative within) is below zero.

        Args:
            distance: In canvas units, one a pixel.
            colour: RGB in [0, 1].
            softness: Width of the edge; at least a pixel, so that edges are smooth.
        """
        edge = max(softness, 1.5 * self.pixel)
        cover = np.clip(0.5 - distance / edge, 0.0, 1.0)[..., None]
        self.pixels = self.pixels * (1 - cover) + np.array(colour) * cover

    def disc(self, x: float, y: float, radius: float, colour: Colour, softness: float = 0.0) -> None:
        """A filled circle."""
        self.paint(np.hypot(self.x - x, self.y - y) - radius, colour, softness)

    def ellipse(self, x: float, y: float, across: float, down: float, colour: Colour) -> None:
        """A filled ellipse with half axes ``across`` and ``down``."""
        scaled = np.hypot((self.x - x) / across, (self.y - y) / down) - 1
        self.paint(scaled * min(across, down), colour)

    def box(self, x: float, y: float, across: float, down: float, colour: Colour) -> None:
        """A filled rectangle with half sides ``across`` and ``down``."""
        self.paint(np.maximum(np.abs(self.x - x) - across, np.abs(self.y - y) - down), colour)

    def cone(self, x: float, tip: float, base: float, across: float, colour: Colour) -> None:
        """A triangle from ``tip`` to ``base`` (above or below it), with half width ``across`` there."""
        height = abs(base - tip)
        reached = (self.y - tip) * np.sign(base - tip)
        slant = (np.abs(self.x - x) - across * reached / height) * height / np.hypot(height, across)
        self.paint(np.maximum(slant, reached - height), colour)

    def ridge(self, level: float, waves: Sequence[tuple[float, float, float]], colour: Colour) -> None:
        """Everything below a line of ``waves`` (amplitude, frequency, phase) around ``level``."""
        line = level + sum(size * np.sin(pace * self.x + phase) for size, pace, phase in waves)
        self.paint(line - self.y, colour)

    def image(self) -> Image.Image:
        """The picture, 8 bits a channel."""
        return Image.fromarray(np.uint8(np.rint(np.clip(self.pixels, 0, 1) * 255)))


def _hills(canvas: Canvas) -> None:
    canvas.sky((0.21, 0.29, 0.52), (0.98, 0.66, 0.42))
    canvas.disc(0.35, 0.05, 0.42, (0.99, 0.75, 0.50), softness=0.7)
    canvas.disc(0.35, 0.05, 0.20, (1.0, 0.93, 0.75))
    canvas.ridge(0.10, [(0.12, 2.1, 0.4), (0.05, 5.3, 1.0)], (0.45, 0.36, 0.50))
    canvas.ridge(0.35, [(0.10, 1.7, 2.2), (0.04, 6.1, 0.2)], (0.30, 0.29, 0.40))
    canvas.ridge(0.65, [(0.08, 2.6, 4.0), (0.03, 7.7, 1.9)], (0.14, 0.19, 0.24))


def _boat(canvas: Canvas) -> None:
    canvas.sky((0.42, 0.68, 0.90), (0.86, 0.93, 0.97))
    canvas.disc(-0.9, -0.6, 0.14, (1.0, 0.97, 0.82))
    canvas.ridge(0.15, [(0.006, 11.0, 0.0)], (0.12, 0.42, 0.62))
    canvas.cone(-0.02, -0.62, 0.18, 0.34, (0.97, 0.96, 0.92))
    canvas.box(-0.02, -0.2, 0.012, 0.45, (0.35, 0.24, 0.18))
    canvas.ellipse(0.0, 0.24, 0.42, 0.12, (0.70, 0.22, 0.18))
    canvas.ridge(0.27, [(0.020, 7.0, 0.5), (0.008, 17.0, 0.0)], (0.10, 0.38, 0.58))
    canvas.ridge(0.60, [(0.025, 5.0, 2.5), (0.010, 13.0, 1.0)], (0.07, 0.30, 0.50))


def _balloons(canvas: Canvas) -> None:
    canvas.sky((0.36, 0.60, 0.86), (0.92, 0.88, 0.80))
    shades: list[tuple[float, float, float, Colour]] = [
        (-0.75, -0.30, 0.22, (0.86, 0.32, 0.26)),
        (0.15, -0.45, 0.30, (0.95, 0.72, 0.22)),
        (0.95, -0.05, 0.17, (0.30, 0.52, 0.40)),
    ]
    for x, y, size, colour in shades:
        canvas.cone(x, y + 2.4 * size, y + 0.35 * size, 0.94 * size, colour)
        canvas.disc(x, y, size, colour)
        canvas.ellipse(x, y, 0.35 * size, size, (1.0, 0.96, 0.88))
        canvas.box(x, y + 1.75 * size, 0.16 * size, 0.12 * size, (0.42, 0.30, 0.20))
    canvas.ridge(0.70, [(0.06, 3.1, 0.7)], (0.55, 0.62, 0.36))


def _forest(canvas: Canvas) -> None:
    canvas.sky((0.72, 0.82, 0.86), (0.90, 0.92, 0.88))
    canvas.ridge(0.35, [(0.05, 2.3, 0.0)], (0.62, 0.72, 0.70))
    for row, (level, size, shade) in enumerate([(0.45, 0.55, 0.45), (0.70, 0.75, 0.30), (1.12, 1.0, 0.17)]):
        for tree in range(-7, 8):
            x = 0.34 * tree + 0.17 * (row % 2) + 0.05 * np.sin(7.3 * tree + row)
            tall = size * (0.85 + 0.15 * np.sin(3.7 * tree + 2 * row))
            for part in (0.0, 0.28, 0.52):
                canvas.cone(
                    x,
                    level - tall * (1 - part),
                    level - 0.1,
                    0.10 + 0.14 * part,
                    (shade * 0.6, shade, shade * 0.7),
                )


def _city(canvas: Canvas) -> None:
    canvas.sky((0.03, 0.04, 0.12), (0.20, 0.16, 0.32))
    canvas.disc(0.8, -0.6, 0.13, (0.95, 0.94, 0.86))
    canvas.disc(0.86, -0.64, 0.11, (0.06, 0.06, 0.16))
    for tower in range(-8, 9):
        x, tall = 0.23 * tower, 0.55 + 0.35 * np.sin(5.1 * tower) ** 2
        canvas.box(x, 1.0 - tall, 0.105, tall, (0.07, 0.08, 0.14))
        for floor in range(int(tall * 10)):
            for side in (-0.05, 0.0, 0.05):
                if np.sin(91.7 * tower + 37.3 * floor + 530.0 * side) > 0.1:
                    canvas.box(
                        x + side, 1.0 - 2 * tall + 0.08 + 0.17 * floor, 0.014, 0.032, (0.98, 0.85, 0.50)
                    )


def _planet(canvas: Canvas) -> None:
    canvas.sky((0.02, 0.02, 0.06), (0.07, 0.04, 0.13))
    for star in range(70):
        x, y = 1.9 * np.sin(12.9898 * star), np.sin(78.233 * star)
        canvas.disc(x, y, 0.004 + 0.004 * np.sin(star) ** 2, (0.9, 0.9, 1.0))
    canvas.ellipse(0.0, 0.05, 1.05, 0.20, (0.72, 0.62, 0.50))
    canvas.ellipse(0.0, 0.05, 0.82, 0.13, (0.04, 0.03, 0.09))
    canvas.disc(0.0, 0.0, 0.52, (0.80, 0.55, 0.36))
    canvas.disc(-0.10, -0.10, 0.20, (0.90, 0.68, 0.46), softness=0.4)
    canvas.disc(-1.2, -0.55, 0.09, (0.65, 0.70, 0.76))


def _fish(canvas: Canvas) -> None:
    canvas.sky((0.16, 0.62, 0.76), (0.03, 0.18, 0.38))
    for ray in range(-3, 4):
        canvas.cone(0.5 * ray, -1.6, 1.4, 0.10, (0.15, 0.55, 0.70))
    canvas.ridge(0.80, [(0.04, 4.0, 0.0), (0.02, 11.0, 1.0)], (0.72, 0.66, 0.48))
    schools: list[tuple[float, float, float, Colour]] = [
        (-0.55, -0.10, 1.0, (0.98, 0.52, 0.16)),
        (0.55, 0.25, 0.7, (0.98, 0.82, 0.25)),
        (0.75, -0.50, 0.5, (0.90, 0.35, 0.45)),
    ]
    for x, y, size, colour in schools:
        canvas.paint(
            np.maximum(
                np.abs(canvas.y - y) - 0.75 * (x + 0.10 * size - canvas.x) + 0.2 * size,
                x - 0.50 * size - canvas.x,
            ),
            colour,
        )
        canvas.ellipse(x, y, 0.30 * size, 0.16 * size, colour)
        canvas.disc(x + 0.19 * size, y - 0.04 * size, 0.028 * size, (0.05, 0.05, 0.08))


def _windmill(canvas: Canvas) -> None:
    canvas.sky((0.55, 0.78, 0.95), (0.93, 0.96, 0.98))
    for x, y in ((-1.1, -0.60), (-0.9, -0.55), (0.9, -0.70), (1.1, -0.66)):
        canvas.ellipse(x, y, 0.24, 0.09, (1.0, 1.0, 1.0))
    canvas.ridge(0.45, [(0.05, 2.0, 1.0)], (0.45, 0.66, 0.30))
    canvas.cone(0.1, -0.75, 0.62, 0.30, (0.86, 0.80, 0.70))
    canvas.disc(0.1, -0.28, 0.20, (0.56, 0.26, 0.20))
    for turn in np.deg2rad((20.0, 110.0, 200.0, 290.0)):
        along = (canvas.x - 0.1) * np.cos(turn) + (canvas.y + 0.3) * np.sin(turn)
        beside = -(canvas.x - 0.1) * np.sin(turn) + (canvas.y + 0.3) * np.cos(turn)
        canvas.paint(
            np.maximum(np.abs(along - 0.38) - 0.34, np.abs(beside - 0.05) - 0.05), (0.98, 0.97, 0.94)
        )
    canvas.ridge(0.75, [(0.03, 3.0, 0.3)], (0.88, 0.40, 0.38))


@dataclass(frozen=True)
class Scene:
    """A drawing.

    Args:
        name: Of the file.
        text: What the video should show, for rewards that read it.
        draw: Paints it.
    """

    name: str
    text: str
    draw: Callable[[Canvas], None]


TRAINING = (
    Scene("hills", "the sun going down behind hills, clouds drifting", _hills),
    Scene("boat", "a sailing boat rocking on blue waves", _boat),
    Scene("balloons", "hot air balloons rising over a meadow", _balloons),
    Scene("forest", "mist moving through a fir forest", _forest),
    Scene("city", "a city at night, lights going on and off", _city),
    Scene("fish", "fish swimming in clear water", _fish),
)
HELD_OUT = (
    Scene("planet", "a ringed planet turning slowly among stars", _planet),
    Scene("windmill", "a windmill turning above a field of flowers", _windmill),
)


def render(scene: Scene, height: int, width: int) -> Image.Image:
    """The picture of ``scene``; equal arguments give equal pixels."""
    canvas = Canvas(height, width)
    scene.draw(canvas)
    return canvas.image()


def default_folder() -> Path:
    """``vader/svd_demo_images`` under the user's cache folder (``XDG_CACHE_HOME``, else ``~/.cache``)."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "vader" / "svd_demo_images"


class DemoImages(PromptSource):
    """The drawings as prompts: six to train on, two held out. Files are written when first asked for.

    Args:
        config: Where they go, and their size.
    """

    def __init__(self, config: DemoImagesConfig) -> None:
        self.config = config
        self.folder = config.folder or default_folder()

    def draw(self, indices: Sequence[int], seed: int = 0) -> list[Prompt]:
        """Training pictures, in endless shuffled passes."""
        return [self._prompt(TRAINING[shuffled_index(index, len(TRAINING), seed)]) for index in indices]

    def all(self) -> list[Prompt]:
        """The held-out pictures."""
        return [self._prompt(scene) for scene in HELD_OUT]

    def _prompt(self, scene: Scene) -> Prompt:
        height, width = self.config.height, self.config.width
        path = self.folder / f"{scene.name}_{height}x{width}_{EDITION}.png"
        if not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(path) as beside:
                render(scene, height, width).save(beside, format="PNG")
        return Prompt(scene.text, image=path)
