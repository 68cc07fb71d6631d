"""How far shortcuts of the no-grad steps move the clips of the trained demo model, and what they save.

python benchmarks/shortcuts_deviation.py benchmarks/results/shortcuts.json

Latents of 32 held-out captions after 6 steps at guidance 3, the last step whole as it is where it is
differentiated, against the same without shortcuts; beside it what bfloat16 and fewer steps do. Scores are of
the decoded clips; the work is counted in samples that pass a block in the no-grad steps.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from checkout import registry_of_checkout
from torch import Tensor, nn

from vader_core.api.configure import complete
from vader_core.assembly.loading import load_backbone, load_rewards
from vader_core.assembly.parts import Assembly
from vader_core.assembly.prepare import prepare
from vader_core.method.gradient import Drawn
from vader_core.method.model import Model
from vader_core.method.shortcuts import WHOLE, Shortcuts, ShortPredictions
from vader_core.randomness import Randomness
from vader_core.run.config import validated
from vader_core.run.layers import merged, read_recipe

CLIPS, BATCH = 32, 8
SHORTCUTS = {
    "guidance in steps 0 to 2": Shortcuts(guidance_interval=(0, 2)),
    "guidance in steps 2 to 4": Shortcuts(guidance_interval=(2, 4)),
    "guidance every 2nd step": Shortcuts(guidance_cache=2),
    "guidance every 3rd step": Shortcuts(guidance_cache=3),
    "guidance once": Shortcuts(guidance_cache=6),
    "features every 2nd step": Shortcuts(feature_cache=2),
    "features every 3rd step": Shortcuts(feature_cache=3),
    "features once": Shortcuts(feature_cache=6),
    "guidance and features every 2nd step": Shortcuts(guidance_cache=2, feature_cache=2),
}


def load(num_steps: int = 6, precision: str = "fp32") -> Assembly:
    """The demo, with its reward and the alignment."""
    registry = registry_of_checkout()
    given = {
        "sampler": {"num_steps": num_steps},
        "trainer": {"precision": precision, "device": "cpu"},
    }
    config = complete(validated(merged(read_recipe(registry, "demo"), given)), registry)
    assembly = prepare(config, registry)
    load_backbone(assembly)
    load_rewards(assembly)
    return assembly


def shortened(model: Model, shortcuts: Shortcuts) -> Model:
    """The same model, whose no-grad steps leave out what ``shortcuts`` says."""
    short = ShortPredictions(model.backbone, model.guidance, shortcuts) if shortcuts.on else None
    return replace(model, shortcuts=short)


@torch.no_grad()
def sample(assembly: Assembly, shortcuts: Shortcuts) -> tuple[Tensor, dict[str, float]]:
    """Latents of the held-out captions, and mean scores of the clips."""
    backbone, geometry, model = assembly.backbone, assembly.geometry, shortened(assembly.model, shortcuts)
    last = Drawn(frozenset({model.num_steps - 1}))
    passed = 0

    def count(block: nn.Module, given: tuple[Tensor, ...], found: Tensor) -> None:
        nonlocal passed
        passed += len(found)

    hooks = [block.register_forward_hook(count) for block in backbone.denoiser.blocks]
    parts: list[Tensor] = []
    scores: dict[str, list[Tensor]] = {}
    for start in range(0, CLIPS, BATCH):
        prompts = assembly.held_out_prompts()[start : start + BATCH]
        rng = Randomness(0, samples=tuple(range(start, start + BATCH)))
        conditioning = model.condition(prompts, geometry, rng)
        with torch.enable_grad():  # only then is the last step one that is differentiated
            latents = model.rollout(conditioning, geometry, rng, last).latents.detach()
        with assembly.autocast():
            video = backbone.decode(latents, geometry)
        parts.append(latents.float())
        for mixture in (assembly.rewards, assembly.monitors):
            frames = mixture.choose_frames("all", video.shape[1], rng)
            for name, score in mixture(video.float(), frames, prompts, rng).scores.items():
                scores.setdefault(name, []).append(score)
    for hook in hooks:
        hook.remove()
    found = {name: float(torch.cat(values).mean()) for name, values in scores.items()}
    # Of the last step both branches are always whole.
    return torch.cat(parts), {"block_passes": passed / len(hooks) / CLIPS - 2, **found}


def main(file: Path) -> None:
    """Measure and write."""
    assembly = load()
    whole, base = sample(assembly, WHOLE)
    rows = [{"shortcut": "none", "latents_move_by": 0.0, **base}]
    others = {name: sample(assembly, shortcuts) for name, shortcuts in SHORTCUTS.items()}
    others["bfloat16"] = sample(load(precision="bf16"), WHOLE)
    others["5 steps"] = sample(load(num_steps=5), WHOLE)
    others["3 steps"] = sample(load(num_steps=3), WHOLE)
    for name, (latents, scores) in others.items():
        moved = float((latents - whole).norm() / whole.norm())
        rows.append({"shortcut": name, "latents_move_by": moved, **scores})
    file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        sys.stdout.write(f"{row}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
