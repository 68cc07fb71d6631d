"""What the sections of a run's configuration are made of."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

Tree = dict[str, Any]


class Section(BaseModel):
    """A part of the tree, which never changes; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ComponentSection(BaseModel):
    """A part of the tree that names a component and holds the component's own options beside the name."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    @property
    def options(self) -> Tree:
        """The component's own options."""
        return dict(self.model_extra or {})
