"""How much of a frame text covers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vader_core.errors import MissingDependencyError

from .contracts import Clip, Scorer
from .options import TextAreaOptions, TextBoxesOptions
from .sampling import middle, uniform

Polygon = Sequence[Sequence[float]]


def easyanimate_text_score(
    height: int, width: int, rectangles: Sequence[Sequence[float]], polygons: Sequence[Polygon]
) -> float:
    """EasyAnimate V2's text score of boxes, its mistakes included.

    Rectangles that overlap count twice, what lies outside the frame counts, and polygons never do: an
    exception inside upstream's sum sets their part to zero.

    Args:
        height: Of the frame.
        width: Of the frame.
        rectangles: (xmin, xmax, ymin, ymax); inverted ones are skipped.
        polygons: Free-form boxes, ignored.

    Returns:
        Share of the frame, five decimals.

    >>> easyanimate_text_score(100, 200, [(10, 60, 20, 40)], [])
    0.05
    """
    del polygons
    area = sum(
        (right - left) * (bottom - top)
        for left, right, top, bottom in rectangles
        if right >= left and bottom >= top
    )
    return round(float(area / (height * width)), 5)


def covered(height: int, width: int, polygons: Sequence[Polygon]) -> float:
    """The share of a frame that polygons cover, overlaps once, what lies outside it not at all.

    >>> covered(100, 200, [[(10, 20), (59, 20), (59, 39), (10, 39)]])
    0.05
    """
    import cv2

    if not polygons:
        return 0.0
    mask = np.zeros((height, width), np.uint8)
    for polygon in polygons:  # one by one: together, overlaps would cancel out
        cv2.fillPoly(mask, [np.round(np.asarray(polygon, float)).astype(np.int32)], 1)
    return round(float(mask.mean()), 5)


def polygon_area(polygon: Polygon) -> float:
    """Area by the shoelace formula, in square pixels."""
    x, y = np.asarray(polygon, float).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


class TextArea(Scorer):
    """The share of the frame that text covers, by rapidocr's detector.

    A box over ``ignore_over`` of the frame is no text: the detector may return nearly the whole frame,
    on small ones above all. A box in which the recogniser reads nothing is none either.
    """

    def __init__(self, options: TextAreaOptions) -> None:
        self.options = options
        self.engine = _engine("scorer 'text_area'")

    def indices(self, num_frames: int, fps: float) -> list[int]:
        """The middle frame, or evenly spaced ones."""
        return middle(num_frames) if self.options.frames == 1 else uniform(num_frames, self.options.frames)

    def score(self, clips: Sequence[Clip]) -> list[float | None]:
        """Shares of the frame."""
        return [round(sum(map(self._score, clip.frames)) / len(clip.frames), 5) for clip in clips]

    def _score(self, frame: np.ndarray) -> float:
        height, width = frame.shape[:2]
        return covered(height, width, self.kept(frame))

    def boxes(self, frame: np.ndarray) -> list[Polygon]:
        """The detector's boxes as they come: four corners (x, y) each.

        Args:
            frame: uint8 [H, W, 3], RGB.
        """
        return _boxes(self.engine, frame, self.options.box_threshold)

    def kept(self, frame: np.ndarray) -> list[Polygon]:
        """The boxes that are text."""
        limit = self.options.ignore_over * frame.shape[0] * frame.shape[1]
        boxes = [box for box in self.boxes(frame) if polygon_area(box) <= limit]
        if boxes and self.options.require_text:
            boxes = [box for box in boxes if self.readable(frame, box)]
        return boxes

    def readable(self, frame: np.ndarray, box: Polygon) -> bool:
        """Whether the recogniser reads anything in a box."""
        found = self.engine(
            _straightened(frame, box)[..., ::-1].copy(), use_det=False, use_cls=False, use_rec=True
        )
        return any(text.strip() for text in found.txts or ())


class TextBoxes(Scorer):
    """How many boxes of text a frame has, Open-Sora's ``ocr``.

    Upstream counts DBNet++'s boxes of MMOCR; this is rapidocr's detector, of the same method (DBNet) with
    other weights.
    """

    def __init__(self, options: TextBoxesOptions) -> None:
        self.options = options
        self.engine = _engine("scorer 'text_boxes'")

    def indices(self, num_frames: int, fps: float) -> list[int]:
        """One frame; the last where the clip is shorter."""
        return [min(self.options.frame, num_frames - 1)]

    def score(self, clips: Sequence[Clip]) -> list[float | None]:
        """Counts."""
        return [float(len(_boxes(self.engine, clip.frames[0], self.options.box_threshold))) for clip in clips]


def _boxes(engine: Any, frame: np.ndarray, threshold: float) -> list[Polygon]:
    found = engine(
        frame[..., ::-1].copy(),  # rapidocr reads arrays as OpenCV has them
        use_det=True,
        use_cls=False,
        use_rec=False,
        box_thresh=threshold,
    )
    return [] if found.boxes is None else [[tuple(map(float, point)) for point in box] for box in found.boxes]


def _straightened(frame: np.ndarray, box: Polygon) -> np.ndarray:
    """The box's part of the frame, turned straight."""
    import cv2

    corners = np.asarray(box, np.float32)
    width = max(int(np.linalg.norm(corners[0] - corners[1])), 1)
    height = max(int(np.linalg.norm(corners[0] - corners[3])), 1)
    target = np.asarray([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    return cv2.warpPerspective(frame, cv2.getPerspectiveTransform(corners, target), (width, height))


def _engine(needed_for: str) -> Any:
    try:
        import onnxruntime  # noqa: F401  # rapidocr imports it late and explains its absence badly
        from rapidocr import RapidOCR
    except ImportError as error:
        raise MissingDependencyError(
            str(error.name), needed_for, "pip install rapidocr onnxruntime"
        ) from error
    # its own log says at every start which files it opens
    return RapidOCR(
        params={"Global.log_level": "critical", "EngineConfig.onnxruntime.intra_op_num_threads": 1}
    )
