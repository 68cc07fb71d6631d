"""Deep features are reused by branch and age, and never where a gradient is recorded."""

from __future__ import annotations

import pytest
import torch

from vader_core.nn import feature_cache
from vader_core.nn.feature_cache import FeatureCache

BOTH = ("conditional", "unconditional")


class Deep:
    """Squares, and counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        return x * x


@pytest.fixture
def deep():
    return Deep()


@torch.no_grad()
@pytest.mark.parametrize(
    ("way", "kept"), [("residual", lambda x, new: new + x * x - x), ("output", lambda x, new: x * x)]
)
def test_features_serve_the_steps_they_are_young_enough_for(deep, way, kept):
    cache, x, new = FeatureCache(), torch.randn(4, 3), torch.randn(4, 3)
    found = []
    for i, given in enumerate((x, new, new, new)):
        with cache.at(i, BOTH, 3):
            found.append(getattr(feature_cache, way)(given, deep))
    assert deep.calls == 2
    torch.testing.assert_close(found[0], x * x)
    torch.testing.assert_close(found[1], kept(x, new))
    torch.testing.assert_close(found[2], kept(x, new))
    torch.testing.assert_close(found[3], new * new)


@torch.no_grad()
def test_each_branch_has_features_and_an_age_of_its_own(deep):
    cache, x = FeatureCache(), torch.randn(4, 3)
    with cache.at(0, BOTH, 3):
        feature_cache.output(x, deep)
    with cache.at(1, BOTH[:1], 3):
        assert torch.equal(feature_cache.output(x[:2] + 1, deep), x[:2] ** 2)
    with cache.at(3, BOTH[:1], 3):
        assert torch.equal(feature_cache.output(x[:2] + 1, deep), (x[:2] + 1) ** 2)
    with cache.at(4, BOTH, 3):  # the unconditional features are four steps old
        assert torch.equal(feature_cache.output(x, deep), x**2)
    assert deep.calls == 3


@torch.no_grad()
def test_features_stay_where_they_lie(deep):
    cache = FeatureCache()
    places = []
    for i in range(2):
        with cache.at(i, BOTH, 1):
            feature_cache.output(torch.randn(4, 3), deep)
        places.append({key: value.data_ptr() for key, value in cache._held.items()})
    assert places[0] == places[1]
    assert deep.calls == 2


def test_gradients_and_calls_outside_are_whole(deep):
    cache, x = FeatureCache(), torch.randn(4, 3, requires_grad=True)
    with cache.at(0, BOTH, 2), torch.no_grad():
        feature_cache.residual(x, deep)
    with cache.at(1, BOTH, 2):
        feature_cache.residual(x, deep).sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach())
    with torch.no_grad():
        feature_cache.residual(x, deep)
    assert deep.calls == 3


@torch.no_grad()
def test_nothing_is_open_behind_a_call_that_failed(deep):
    cache, x = FeatureCache(), torch.randn(4, 3)

    def fails(given):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"), cache.at(0, BOTH, 2):
        feature_cache.output(x, fails)
    assert feature_cache._open is None
    with cache.at(1, BOTH, 2):  # the step that failed made no features to reuse
        assert torch.equal(feature_cache.output(x, deep), x**2)
    assert deep.calls == 1


@torch.no_grad()
def test_a_new_rollout_starts_afresh(deep):
    cache, x = FeatureCache(), torch.randn(2, 3)
    for _ in range(2):
        cache.reset()
        with cache.at(0, BOTH, 5):
            feature_cache.output(x, deep)
    assert deep.calls == 2
