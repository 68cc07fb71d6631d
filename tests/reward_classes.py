"""The class of a reward of vader-rewards, by the names that its registration gives."""

from importlib import import_module


def reward_class(module, name):
    return getattr(import_module(f"vader_rewards.{module}"), name)
