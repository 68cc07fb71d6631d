"""The contract of a backbone; its clauses are in the modules imported here, in the order of examination."""

from __future__ import annotations

from vader_core.testing import backbone_facts, backbone_gradients, backbone_videos
from vader_core.testing.backbone_case import BACKBONE, BackboneSubject, late_timestep

__all__ = [
    "BACKBONE",
    "BackboneSubject",
    "backbone_clauses",
    "backbone_facts",
    "backbone_gradients",
    "backbone_subject",
    "backbone_videos",
    "check_backbone",
    "late_timestep",
]

check_backbone, backbone_clauses, backbone_subject = BACKBONE.check, BACKBONE.clauses, BACKBONE.subject
