"""The plan of a run: every stage's options in one tree, as a preset says them and ``-o`` changes them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from .options import Options


class CutOptions(Options):
    """How long clips are, and how they are written."""

    min_seconds: float | None = Field(None, gt=0, description="Shorter scenes are rejected.")
    max_seconds: float | None = Field(None, gt=0, description="Longer scenes are shortened.")
    longer: Literal["split", "beginning"] = Field(
        "split",
        description="A longer scene is split into pieces of max_seconds, or only its beginning is kept.",
    )
    min_frames: int | None = Field(
        None, ge=1, description="Clips with fewer frames, as written, are rejected."
    )
    max_frames: int | None = Field(
        None, ge=1, description="Clips with more frames, as written, are rejected."
    )
    write: Literal["files", "spans"] = Field(
        "files", description="Write each clip as a file, or leave it as a span (start, end) of its film."
    )
    fps: float | None = Field(None, gt=0, description="Frames per second of the written clips.")
    shorter_side: int | None = Field(None, ge=16, description="Shorter side of the written clips, in pixels.")
    enlarge: bool = Field(
        False, description="As upstream: a smaller film is enlarged to shorter_side. Off: it keeps its size."
    )
    crf: int = Field(22, ge=0, le=51, description="x264's constant rate factor.")
    speed: str = Field("veryfast", description="x264's preset.")
    keep_rejected: bool = Field(False, description="Keep the files of clips that later stages reject.")
    uncut_at_25_fps: bool = Field(
        False,
        description="As upstream (EasyAnimate): a film without a cut is measured as if it had 25 frames per "
        "second and one frame less.",
    )
    whole_seconds: bool = Field(
        False, description="As upstream (Open-Sora 1.1): the times of a cut are rounded to whole seconds."
    )


class DetectorPlan(Options):
    """Which scene detector, and its options."""

    name: str = Field("cascade", description="Of the detector; `none` takes each film whole.")
    options: dict[str, Any] = Field(default_factory=dict, description="The detector's own options.")


class ScorerPlan(Options):
    """One score: who gives it, and which values are kept."""

    scorer: str = Field(..., description="Name of the scorer.")
    options: dict[str, Any] = Field(default_factory=dict, description="The scorer's own options.")
    min: float | None = Field(None, description="Smaller values are rejected.")
    max: float | None = Field(None, description="Larger values are rejected.")
    exclusive: bool = Field(False, description="The bounds themselves are rejected too.")
    missing_passes: bool = Field(
        False, description="As upstream: a clip that could not be scored passes. Off: it is rejected."
    )
    after_captions: bool = Field(False, description="Score when there is a caption.")


class CaptionPlan(Options):
    """Who writes the captions, and what is done with an answer."""

    name: str = Field("none", description="Name of the captioner; `none` leaves the captions empty.")
    options: dict[str, Any] = Field(default_factory=dict, description="The captioner's own options.")
    remove_prefix: bool = Field(True, description="Remove `The video shows` and its like.")
    clean: bool = Field(
        False, description="Clean as Open-Sora's text encoder does: lower case, no addresses."
    )
    keep_refusals: bool = Field(
        False, description="As upstream: answers such as `Not enough information` are kept as captions."
    )
    keep_empty: bool = Field(False, description="Keep clips whose caption is empty.")


class ImagePlan(Options):
    """Images made of the clips."""

    middle_frame: bool = Field(False, description="Add each kept clip's middle frame as an image of its own.")


class DuplicatePlan(Options):
    """Which clips are the same."""

    distance: int | None = Field(
        9,
        ge=0,
        le=96,
        description="Most differing bits of the 192-bit perceptual hash; none switches it off.",
    )
    embedder: str = Field("none", description="Name of an embedder that looks at what the hash lets pass.")
    options: dict[str, Any] = Field(default_factory=dict, description="The embedder's own options.")
    cosine: float = Field(0.95, ge=-1, le=1, description="Clips at least this similar are the same.")


class Plan(Options):
    """Everything that decides the rows of the manifest."""

    preset: str = Field("", description="Where the plan comes from.")
    detector: DetectorPlan = Field(default_factory=DetectorPlan, description="Where films are cut.")
    cut: CutOptions = Field(default_factory=CutOptions, description="How long clips are.")
    scorers: dict[str, ScorerPlan] = Field(
        default_factory=dict,
        description="Scores by the name of their column, in the order they are computed.",
    )
    captions: CaptionPlan = Field(default_factory=CaptionPlan, description="What the clips show, in words.")
    images: ImagePlan = Field(default_factory=ImagePlan, description="Images made of the clips.")
    duplicates: DuplicatePlan = Field(default_factory=DuplicatePlan, description="Which clips are the same.")
    exports: list[str] = Field(default_factory=list, description="Formats that a run writes at its end.")

    def columns(self) -> tuple[str, ...]:
        """The names of the score columns."""
        return tuple(self.scorers)
