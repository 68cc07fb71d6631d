"""Rollouts that are kept, so that each serves several updates."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vader_core.conditioning import Conditioning
from vader_core.errors import VaderError
from vader_core.files import replacing
from vader_core.geometry import Geometry
from vader_core.method.objective import Batch
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.weights import load_tensors, save_tensors

_TENSORS = "store.safetensors"
_INDEX = "store.json"

#: Which of a micro-step's rollouts, and which micro-step.
Place = tuple[int, int]


@dataclass
class Stored:
    """One micro-step's rollout.

    Args:
        batch: Its prompts, with the random numbers that made it.
        latents: Clean, [B, C, T, h, w].
        conditioning: What it was made from; ``None`` until it is asked for after a restart.
        served: Steps that have used it.
    """

    batch: Batch
    latents: Tensor
    conditioning: Conditioning | None = None
    served: int = 0


class LatentStore:
    """A number of rollouts for each micro-step, used in turns.

    Step s uses the rollout at place s modulo ``size``; one that has served ``refresh`` steps is made anew
    when its turn comes. So fewer than ``size`` times ``refresh`` steps lie between a rollout and its use.
    Each process keeps the samples that it draws.

    Args:
        size: Rollouts per micro-step.
        refresh: Steps that each serves; 0 is for good.
    """

    def __init__(self, size: int, refresh: int) -> None:
        self.size, self.refresh = size, refresh
        self._kept: dict[Place, Stored] = {}

    def take(self, step: int, micro: int, batch_size: int) -> Stored | None:
        """The rollout that step ``step`` uses; ``None`` where it is to be made.

        Args:
            step: Optimizer step, from 0.
            micro: Micro-step within it.
            batch_size: Samples per micro-step; a rollout of another number is of no use.
        """
        found = self._kept.get((step % self.size, micro))
        if found is None or len(found.batch) != batch_size:
            return None
        if self.refresh and found.served >= self.refresh:
            return None
        found.served += 1
        return found

    def put(self, step: int, micro: int, made: Stored) -> Stored:
        """Keep a rollout that step ``step`` made, and uses."""
        made.served = 1
        self._kept[step % self.size, micro] = made
        return made

    # -- files -------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write what is kept; an empty store writes nothing."""
        if not self._kept:
            return
        names = {place: f"{place[0]}.{place[1]}" for place in self._kept}
        save_tensors({names[at]: one.latents.cpu() for at, one in self._kept.items()}, folder / _TENSORS)
        rows = [_row(at, one) for at, one in self._kept.items()]
        with replacing(folder / _INDEX) as beside:
            beside.write_text(json.dumps(rows, indent=1) + "\n")

    def load(self, folder: Path) -> None:
        """Read what :meth:`save` wrote; nothing there is an empty store.

        Raises:
            VaderError: It is damaged.
        """
        self._kept = {}
        if not (folder / _INDEX).is_file():
            return
        tensors = load_tensors(folder / _TENSORS, needed_for="the latent store")
        try:
            for row in json.loads((folder / _INDEX).read_text()):
                slot, micro = row["place"]
                batch = Batch([_prompt(one) for one in row["prompts"]], _geometry(row), _randomness(row))
                latents = tensors[f"{slot}.{micro}"]
                self._kept[slot, micro] = Stored(batch, latents, served=row["served"])
        except (ValueError, KeyError, TypeError) as error:
            raise VaderError(f"{folder / _INDEX} is no latent store: {error}") from error


def _row(place: Place, one: Stored) -> dict[str, Any]:
    return {
        "place": place,
        "served": one.served,
        "geometry": asdict(one.batch.geometry),
        "randomness": asdict(one.batch.rng),
        "prompts": [
            {
                "text": prompt.text,
                "negative": prompt.negative,
                "image": None if prompt.image is None else str(prompt.image),
                "metadata": dict(prompt.metadata),
            }
            for prompt in one.batch.prompts
        ],
    }


def _prompt(row: dict[str, Any]) -> Prompt:
    image = row["image"]
    return Prompt(row["text"], row["negative"], None if image is None else Path(image), row["metadata"])


def _geometry(row: dict[str, Any]) -> Geometry:
    return Geometry(**row["geometry"])


def _randomness(row: dict[str, Any]) -> Randomness:
    found = row["randomness"]
    return Randomness(**{**found, "samples": tuple(found["samples"]), "scope": tuple(found["scope"])})
