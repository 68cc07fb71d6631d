"""A judge that stands on the same network as what is trained on is named."""

from __future__ import annotations

from types import SimpleNamespace

from vader_core.assembly.loading import related_judges
from vader_core.method.mixture import Mixture, Term
from vader_core.testing.tiny import BrightnessReward


def mixture(**families):
    terms = []
    for name, own in families.items():
        kind = type(name, (BrightnessReward,), {"families": own})
        terms.append(Term(name, kind()))
    return Mixture(tuple(terms))


def test_a_judge_of_the_same_family_is_named():
    trained = mixture(aesthetic=("clip-l14",), hps=("clip-h14",), alone=())
    judges = mixture(clip_score=("clip-l14",), viclip=("viclip",), other=())
    found = related_judges(SimpleNamespace(rewards=trained, monitors=judges))
    assert len(found) == 1
    assert "--monitor clip_score stands on the same network as --reward aesthetic (clip-l14)" in found[0]
