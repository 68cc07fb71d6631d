"""What a run's adapter belongs to, in the words of the hub."""

from __future__ import annotations

from vader_core.registry import Registry
from vader_core.run.config import RunConfig

#: Repositories that are elsewhere begin so.
_ELSEWHERE = ("github.com/", "http://", "https://")


def base_model(config: RunConfig, registry: Registry) -> str | None:
    """The repository, or the file, of the backbone's weights.

    ``None`` for random ones and for those that come with a plugin.
    """
    weights = config.backbone.options.get("weights") or "pretrained"
    if weights == "random" or config.backbone.name is None:
        return None
    if weights.startswith("hub:"):
        return "/".join(weights.removeprefix("hub:").partition("@")[0].split("/")[:2])
    if weights != "pretrained":
        return str(weights)
    wanted = registry.get("backbone", config.backbone.name).weights
    return next((file.repository for file in wanted if not file.repository.startswith(_ELSEWHERE)), None)
