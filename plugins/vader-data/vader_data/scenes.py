"""Scene detection by PySceneDetect's detectors, all passes over one decoding of the film."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .contracts import Detector
from .options import AdaptiveOptions, CascadeOptions, ContentOptions
from .reading import decoded

if TYPE_CHECKING:
    from .probe import Probe

#: One pass: a detector of PySceneDetect's, and how many frames it skips after each.
Pass = tuple[Any, int]


def detect(path: Path, facts: Probe, passes: Sequence[Pass]) -> list[list[int]]:
    """The cuts that each pass finds.

    The frames are scaled as PySceneDetect's own manager scales them: bilinear, so that the longer side is 256
    pixels where it is more.

    Args:
        path: The film.
        facts: Of it.
        passes: Detectors with their frame skips; each sees every (skip + 1)-th frame.

    Returns:
        Per pass the frame numbers at which a new scene begins, rising.
    """
    import cv2
    from scenedetect import FrameTimecode
    from scenedetect.scene_manager import compute_downscale_factor

    factor = 0.0
    cuts: list[set[int]] = [set() for _ in passes]
    last = FrameTimecode(0, facts.fps)
    for number, frame in decoded(path, facts, 0, facts.num_frames, strict=False):
        if not any(number % (skip + 1) == 0 for _, skip in passes):
            continue
        picture = frame.to_ndarray(format="bgr24")
        if not factor:
            factor = compute_downscale_factor(max(picture.shape[:2]))
        if factor > 1:
            size = (max(1, round(picture.shape[1] / factor)), max(1, round(picture.shape[0] / factor)))
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)
        last = FrameTimecode(number, facts.fps)
        for found, (detector, skip) in zip(cuts, passes, strict=True):
            if number % (skip + 1) == 0:
                found.update(cut.frame_num for cut in detector.process_frame(last, picture))
    for found, (detector, _) in zip(cuts, passes, strict=True):
        found.update(cut.frame_num for cut in detector.post_process(last))
    return [sorted(found) for found in cuts]


def bounded(cuts: Sequence[int], num_frames: int) -> list[int]:
    """Cuts with the film's beginning and end; nothing where there is no cut.

    >>> bounded([60, 110], 300), bounded([], 300)
    ([0, 60, 110, 300], [])
    """
    return [0, *cuts, num_frames] if cuts else []


def scenes(cuts: Sequence[int], num_frames: int) -> list[tuple[int, int]]:
    """The scenes between the cuts; none where there is no cut.

    >>> scenes([60, 110], 300)
    [(0, 60), (60, 110), (110, 300)]
    """
    edges = bounded(cuts, num_frames)
    return list(pairwise(edges))


def without_slivers(cuts: Sequence[int], reach: int) -> list[int]:
    """Cuts of several passes with those that mean the same cut taken once: the earliest of each group.

    A pass that skips ``reach`` frames after each one reports a cut up to ``reach`` frames late.

    >>> without_slivers([60, 110, 111, 200, 201], 2)
    [60, 110, 200]
    """
    kept: list[int] = []
    for cut in sorted(cuts):
        if not kept or cut - kept[-1] > reach:
            kept.append(cut)
    return kept


def hard_cuts() -> Any:
    """A detector of changes that stand out from the two frames on either side, however short the scenes.

    The content detector joins cuts that lie closer together than ``min_scene_len`` and so hides short scenes
    inside longer ones; asked for scenes of one frame it would cut fast motion to pieces. This one finds the
    hidden cuts and leaves motion alone.
    """
    from scenedetect.detectors import AdaptiveDetector

    return AdaptiveDetector(adaptive_threshold=3.0, min_scene_len=1, window_width=2, min_content_val=15.0)


class Cascade(Detector):
    """EasyAnimate V2: content detectors of three thresholds, each over fewer frames, their cuts merged."""

    def __init__(self, options: CascadeOptions) -> None:
        self.options = options
        self.shortest = 0 if options.merge_short_scenes else options.min_scene_len

    def passes(self) -> list[Pass]:
        """A content detector per threshold."""
        from scenedetect.detectors import ContentDetector

        options = self.options
        return [
            (ContentDetector(threshold=threshold, min_scene_len=options.min_scene_len), skip)
            for threshold, skip in zip(options.thresholds, options.frame_skips, strict=True)
        ]

    def boundaries(self, path: Path, probe: Probe) -> list[int]:
        """All passes' cuts together, each once."""
        passes = self.passes()
        if not self.options.merge_short_scenes:
            passes.append((hard_cuts(), 0))
        cuts = sorted({cut for found in detect(path, probe, passes) for cut in found})
        if not self.options.keep_slivers:
            cuts = without_slivers(cuts, max(self.options.frame_skips))
        return bounded(cuts, probe.num_frames)


class Content(Detector):
    """PySceneDetect's content detector in one pass (EasyAnimate from V5.1 on)."""

    def __init__(self, options: ContentOptions) -> None:
        self.options = options
        self.shortest = 0 if options.merge_short_scenes else options.min_scene_len

    def boundaries(self, path: Path, probe: Probe) -> list[int]:
        """Its cuts."""
        from scenedetect.detectors import ContentDetector

        options = self.options
        passes: list[Pass] = [
            (ContentDetector(threshold=options.threshold, min_scene_len=options.min_scene_len), 0)
        ]
        if not options.merge_short_scenes:
            passes.append((hard_cuts(), 0))
        cuts = sorted({cut for found in detect(path, probe, passes) for cut in found})
        return bounded(without_slivers(cuts, 2) if len(passes) > 1 else cuts, probe.num_frames)


class Adaptive(Detector):
    """PySceneDetect's adaptive detector (Open-Sora, text2bricks)."""

    def __init__(self, options: AdaptiveOptions) -> None:
        self.options = options
        self.shortest = 0 if options.merge_short_scenes else options.min_scene_len

    def boundaries(self, path: Path, probe: Probe) -> list[int]:
        """Its cuts."""
        from scenedetect.detectors import AdaptiveDetector

        options = self.options
        detector = AdaptiveDetector(
            adaptive_threshold=options.threshold,
            min_scene_len=options.min_scene_len if options.merge_short_scenes else 1,
            window_width=options.window,
            min_content_val=options.min_content,
        )
        return bounded(detect(path, probe, [(detector, 0)])[0], probe.num_frames)


class Whole(Detector):
    """No detection."""

    def __init__(self, options: object) -> None:
        del options

    def boundaries(self, path: Path, probe: Probe) -> list[int]:
        """None."""
        return []
