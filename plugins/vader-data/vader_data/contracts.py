"""What a scene detector, a scorer, a captioner and an embedder promise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .probe import Probe

#: Frames of one clip, uint8 [F, H, W, 3], RGB.
Frames = np.ndarray


@dataclass(frozen=True)
class Clip:
    """What is known of a clip when it is scored or captioned.

    Args:
        id: Of its row.
        frames: The frames that were asked for, uint8 [F, H, W, 3], RGB.
        indices: Which frames of the clip these are, from 0.
        num_frames: Of the whole clip.
        fps: Frames per second.
        text: Its caption; empty before there is one.
        image: It is a picture, not a clip.
    """

    id: str
    frames: Frames
    indices: tuple[int, ...]
    num_frames: int
    fps: float
    text: str = ""
    image: bool = False


class Detector(ABC):
    """Where a film is cut."""

    #: Scenes with fewer frames are rejected; 0 where the detector has joined them to others already.
    shortest: int = 0

    @abstractmethod
    def boundaries(self, path: Path, probe: Probe) -> list[int]:
        """The frames at which a scene begins or ends, rising, the first and the last end among them.

        Args:
            path: The film.
            probe: Its facts.

        Returns:
            Frame numbers; an empty list where there is no cut.
        """


class Scorer(ABC):
    """How a clip does by one measure. It raises for a clip that has no score; the clip is then rejected."""

    #: Clips handed over together.
    batch_size: int = 1

    @abstractmethod
    def indices(self, num_frames: int, fps: float) -> list[int]:
        """Which frames of a clip it must see, rising or equal."""

    @abstractmethod
    def score(self, clips: Sequence[Clip]) -> list[float | None]:
        """One number per clip; ``None`` where the clip has none."""


class Captioner(ABC):
    """What a clip shows, in words."""

    batch_size: int = 1

    @abstractmethod
    def indices(self, num_frames: int, fps: float) -> list[int]:
        """Which frames it must see."""

    @abstractmethod
    def caption(self, clips: Sequence[Clip]) -> list[str | Exception]:
        """One answer per clip as it came; an exception in its place rejects that clip alone.

        Args:
            clips: Clips, or images of one frame; never both.
        """


class Embedder(ABC):
    """A clip as a vector, for near duplicates."""

    batch_size: int = 1

    @abstractmethod
    def indices(self, num_frames: int, fps: float) -> list[int]:
        """Which frames it must see."""

    @abstractmethod
    def embed(self, clips: Sequence[Clip]) -> np.ndarray:
        """float32 [N, D], each row of length 1."""
