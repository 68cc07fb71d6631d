"""Registers the objective ``policy_gradient``."""

from vader_core.hookspecs import Register, hookimpl


@hookimpl
def register_objectives(register: Register) -> None:
    """Announce ``policy_gradient``."""
    register(
        "policy_gradient",
        "vader_policy_gradient.objective:PolicyGradient",
        summary="a plain policy gradient, for rewards without a gradient too",
    )
