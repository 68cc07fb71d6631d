"""The registry of a bare checkout, so that the benchmarks run where nothing is installed."""

from __future__ import annotations

from vader_core.registry import Plugin, Registry, load_registry


def registry_of_checkout() -> Registry:
    """The installed plugins; in a bare checkout those that are needed are taken from the path."""
    registry = load_registry()
    if "demo" not in registry.components["backbone"]:
        from vader_demo import plugin as demo

        from vader_core.builtin import plugin as builtin

        registry.add(builtin, Plugin("builtin", "vader-core", "checkout", builtin.__name__))
        registry.add(demo, Plugin("demo", "vader-demo", "checkout", demo.__name__))
    return registry


def with_policy_gradient(registry: Registry) -> Registry:
    """The registry with the example objective, which is rarely installed."""
    if "policy_gradient" not in registry.components["objective"]:
        from vader_policy_gradient import plugin

        registry.add(plugin, Plugin("policy_gradient", "vader-policy-gradient", "checkout", plugin.__name__))
    return registry


def with_rewards(registry: Registry) -> Registry:
    """The registry with the rewards of vader-rewards."""
    if "jpeg_size" not in registry.components["reward"]:
        from vader_rewards import plugin

        registry.add(plugin, Plugin("rewards", "vader-rewards", "checkout", plugin.__name__))
    return registry
