"""The demo world: short clips of one shape that moves over a plain background, drawn from factors.

Shapes are signed distance functions, so every edge is anti-aliased over one pixel. A caption names four
factors (shape, colour, background, motion). Three more are never named: how vivid the colours are,
how strong the outline around the shape is, how much sun falls in from the upper left. They make a clip more
or less beautiful (`beauty`), which leaves a reward room to change a video without contradicting its caption.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from vader_demo.captions import ATTRIBUTES

FRAMES = 8
SIZE = 64
BEAUTY = {"vividness": 0.4, "outline": 0.3, "sunlight": 0.3}
"""Weights of the hidden factors in `beauty`."""

_COLOURS = torch.tensor(
    [
        [0.90, 0.15, 0.15],
        [0.96, 0.52, 0.08],
        [0.95, 0.88, 0.15],
        [0.15, 0.70, 0.22],
        [0.15, 0.80, 0.90],
        [0.18, 0.30, 0.92],
        [0.60, 0.20, 0.80],
        [0.96, 0.96, 0.96],
    ]
)
_BACKGROUNDS = torch.tensor(
    [
        [0.07, 0.07, 0.08],
        [0.50, 0.50, 0.52],
        [0.10, 0.13, 0.36],
        [0.05, 0.40, 0.42],
        [0.42, 0.08, 0.14],
        [0.95, 0.68, 0.76],
    ]
)
_LUMINANCE = torch.tensor([0.30, 0.59, 0.11])
_SUN = torch.tensor([0.50, 0.32, 0.06])
_PALE_OUTLINE = torch.tensor([1.0, 0.98, 0.92])
_DARK_OUTLINE = torch.tensor([0.04, 0.03, 0.06])
_OUTLINE_PIXELS = 2.0
_SHADE = 0.62  # the darker half of a shape, so that a spinning ball can be seen to spin
_WHITE = 7


@dataclass
class Factors:
    """What determines a batch of clips; every field is a tensor of shape (b,).

    The four named attributes are int64 indices into `captions.ATTRIBUTES`; all others are floats in
    [0, 1], and `direction` is -1 or 1.
    """

    shape: Tensor
    colour: Tensor
    background: Tensor
    motion: Tensor
    vividness: Tensor
    outline: Tensor
    sunlight: Tensor
    size: Tensor
    x: Tensor
    y: Tensor
    turn: Tensor
    speed: Tensor
    phase: Tensor
    direction: Tensor

    def __len__(self) -> int:
        return len(self.shape)

    def __getitem__(self, index: Tensor | slice) -> Factors:
        return Factors(*(getattr(self, field.name)[index] for field in fields(self)))

    @property
    def combination(self) -> Tensor:
        """The four named attributes, (b, 4), in the order of `captions.ATTRIBUTES`."""
        return torch.stack([getattr(self, name) for name in ATTRIBUTES], dim=1)


def draw_factors(combination: Tensor, generator: torch.Generator, *, dullness: float = 1.0) -> Factors:
    """Draw the factors that a caption leaves open.

    Args:
        combination: (b, 4) int64, the named attributes, on the generator's device.
        generator: source of randomness.
        dullness: hidden factors are u ** dullness for uniform u: 1 is uniform, 2 is mostly dull (mean 1/3).
    """
    device, count = combination.device, len(combination)
    u = torch.rand(10, count, generator=generator, device=device)
    hidden = u[:3] ** dullness
    direction = torch.where(u[9] < 0.5, -1.0, 1.0)
    fields = (*combination.unbind(1), *hidden, *u[3:9], direction)
    return Factors(*fields)


def draw_combinations(pool: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` rows of a (n, 4) pool of attribute combinations, with replacement."""
    return pool[torch.randint(len(pool), (count,), generator=generator, device=pool.device)]


def beauty(factors: Factors) -> Tensor:
    """How beautiful each clip is by the world's own definition: (b,), 0 to 10."""
    return 10 * sum((weight * getattr(factors, name) for name, weight in BEAUTY.items()), torch.tensor(0.0))


def render(factors: Factors) -> Tensor:
    """Draw the clips.

    Returns:
        (b, 8, 3, 64, 64), float32, RGB in [0, 1].
    """
    device = factors.shape.device
    distance, local_x = _shape_distance(factors)
    object_colour = _vivid(_COLOURS.to(device)[factors.colour], factors.vividness)
    background = _vivid(_BACKGROUNDS.to(device)[factors.background], factors.vividness)
    outline_colour = torch.where(
        (factors.colour == _WHITE)[:, None], _DARK_OUTLINE.to(device), _PALE_OUTLINE.to(device)
    )

    def paint(colour: Tensor) -> Tensor:
        return colour[:, None, :, None, None]

    def cover(amount: Tensor) -> Tensor:
        return (0.5 + amount).clamp(0, 1)[:, :, None]

    axis = (torch.arange(SIZE, device=device) + 0.5) / SIZE
    sun = (1 - (axis[:, None] + axis[None, :]) / 1.25).clamp_min(0)
    light = factors.sunlight[:, None, None, None, None] * sun * _SUN.to(device)[:, None, None]
    canvas = (paint(background) + light).expand(-1, FRAMES, -1, -1, -1)

    band = cover(_OUTLINE_PIXELS - distance) * factors.outline[:, None, None, None, None]
    canvas = torch.lerp(canvas, paint(outline_colour).expand_as(canvas), band.expand_as(canvas))
    body = paint(object_colour) * torch.lerp(
        torch.tensor(1.0, device=device), torch.tensor(_SHADE, device=device), cover(local_x)
    )
    canvas = torch.lerp(canvas, body, cover(-distance).expand_as(canvas))
    return canvas.clamp(0, 1)


def _vivid(colour: Tensor, vividness: Tensor) -> Tensor:
    """Dull colours are paler and closer to middle grey; at vividness 1 they slightly exceed the palette."""
    amount = vividness[:, None]
    grey = (colour * _LUMINANCE.to(colour.device)).sum(1, keepdim=True)
    saturated = grey + (colour - grey) * (0.35 + 0.75 * amount)
    return (0.45 + (saturated - 0.45) * (0.70 + 0.35 * amount)).clamp(0, 1)


def _shape_distance(factors: Factors) -> tuple[Tensor, Tensor]:
    """Signed distance to the shape's edge and the shape's own x axis, both in pixels, (b, 8, 64, 64)."""
    device = factors.shape.device
    centre_x, centre_y, radius, angle = _trajectory(factors)
    axis = torch.arange(SIZE, device=device) + 0.5
    dx = axis[None, None, None, :] - centre_x[:, :, None, None]
    dy = axis[None, None, :, None] - centre_y[:, :, None, None]
    cos, sin = angle.cos()[:, :, None, None], angle.sin()[:, :, None, None]
    scale = radius[:, :, None, None]
    x, y = (cos * dx + sin * dy) / scale, (cos * dy - sin * dx) / scale
    distance = torch.empty_like(x)
    for index, outline in enumerate(_OUTLINES):
        rows = (factors.shape == index).nonzero()[:, 0]
        distance[rows] = outline(x[rows], y[rows])
    return distance * scale, x * scale


def _trajectory(factors: Factors) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centre x and y, radius (pixels) and angle (radians) in each frame: four tensors (b, 8)."""
    time = torch.linspace(0, 1, FRAMES, device=factors.shape.device)[None]
    sweep = 2 * time - 1
    column = {field.name: getattr(factors, field.name)[:, None] for field in fields(factors)}
    speed, phase, direction = column["speed"], column["phase"], column["direction"]
    reach = (11 + 4 * speed) * sweep
    circle = 2 * math.pi * (phase + 0.85 * direction * time)
    circle_radius = 10 + 3 * speed
    hop = 11 - 22 * (math.pi * (phase + (1.5 + 0.5 * speed) * time)).sin().abs()
    nothing = torch.zeros_like(reach)
    shift_x = torch.stack([-reach, reach, *[nothing] * 6, circle_radius * circle.cos(), nothing])
    shift_y = torch.stack(
        [nothing, nothing, -reach, reach, hop, *[nothing] * 3, circle_radius * circle.sin(), nothing]
    )
    growth = 0.7 + 0.5 * time
    zoom = torch.stack([nothing + 1] * 6 + [nothing + growth, nothing + growth.flip(1)] + [nothing + 1] * 2)
    spin = direction * (0.5 + 0.25 * speed) * (FRAMES - 1) * time
    turn = torch.stack([nothing] * 5 + [spin] + [nothing] * 4)
    rows = torch.arange(len(factors), device=factors.shape.device)

    def chosen(table: Tensor) -> Tensor:
        return table[factors.motion, rows]

    centre_x = SIZE / 2 + 10 * (column["x"] - 0.5) + chosen(shift_x)
    centre_y = SIZE / 2 + 10 * (column["y"] - 0.5) + chosen(shift_y)
    radius = (11 + 3 * column["size"]) * chosen(zoom)
    angle = 0.5 * (column["turn"] - 0.5) + chosen(turn)
    return centre_x, centre_y, radius, angle


def _ball(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 0.92


def _box(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Tensor:
    dx, dy = x.abs() - half_width, y.abs() - half_height
    return torch.hypot(dx.clamp_min(0), dy.clamp_min(0)) + torch.maximum(dx, dy).clamp_max(0)


def _square(x: Tensor, y: Tensor) -> Tensor:
    return _box(x, y, 0.8, 0.8)


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    y = y - 0.18
    slope = math.sqrt(3) / 2
    return torch.maximum(y - 0.58, torch.maximum(slope * x, -slope * x) - 0.5 * y - 0.58)


def _star(x: Tensor, y: Tensor) -> Tensor:
    sector = 2 * math.pi / 5
    angle = (torch.atan2(x, -y) + sector / 2).remainder(sector) - sector / 2
    length = torch.hypot(x, y)
    along, across = length * angle.cos(), length * angle.abs().sin()
    tip, notch = 1.08, 0.46
    edge_x, edge_y = notch * math.cos(sector / 2) - tip, notch * math.sin(sector / 2)
    norm = math.hypot(edge_x, edge_y)
    return ((along - tip) * edge_y - across * edge_x) / norm


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.70).abs() - 0.27


def _cross(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(_box(x, y, 0.95, 0.32), _box(x, y, 0.32, 0.95))


def _heart(x: Tensor, y: Tensor) -> Tensor:
    half = 0.74
    y = y - 0.1
    lobes = torch.hypot(x.abs() - half / 2, y + half / 2) - half * math.sqrt(0.5)
    diamond = (x.abs() + y.abs() - half) * math.sqrt(0.5)
    return torch.minimum(lobes, diamond)


def _moon(x: Tensor, y: Tensor) -> Tensor:
    x = x + 0.20
    return torch.maximum(torch.hypot(x, y) - 0.97, 0.82 - torch.hypot(x - 0.62, y))


_OUTLINES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    _ball,
    _square,
    _triangle,
    _star,
    _ring,
    _cross,
    _heart,
    _moon,
)
