"""The memory estimate beside the measured peak, for objectives that sample groups of clips.

    python benchmarks/objective_peaks.py
    python benchmarks/objective_peaks.py --tiny          on the CPU: the estimate alone, at tiny size

Random weights; `jpeg_size` scores, which has no gradient. One JSON line per row.
"""

from __future__ import annotations

import argparse
import json
import traceback
from typing import Any

import torch
from checkout import with_policy_gradient, with_rewards

from vader_core.api.bench import bench, with_prompts, with_random_files
from vader_core.api.configure import configure
from vader_core.profiling.estimate import memory_facts
from vader_core.registry import Registry, load_registry

NFT = {"weight": 1.0, "group": 2, "timesteps": 1}
#: A sampler whose steps are random, as a policy gradient needs it.
DDIM = {"name": "ddim", "eta": 1.0}
#: Objective, backbone, and what else a row asks for.
ROWS: dict[str, dict[str, Any]] = {
    "nft": {"objective": {"nft": NFT}},
    "awm": {"objective": {"nft": {**NFT, "loss": "awm"}}},
    "awm, old weight, without recomputation": {
        "objective": {"nft": {**NFT, "loss": "awm", "old_weight": 0.1}},
        "performance": {"gradient_checkpointing": False},
    },
    "policy gradient": {"objective": {"policy_gradient": {"weight": 1.0, "group": 2}}, "sampler": DDIM},
    "policy gradient, group of 4, 3 steps": {
        "objective": {"policy_gradient": {"weight": 1.0, "group": 4}},
        "sampler": {**DDIM, "num_steps": 3},
    },
}


def measured(row: dict[str, Any], registry: Registry, *, tiny: bool) -> dict[str, Any]:
    """The estimate and, on a GPU, the peak."""
    backbone = {"name": "videocrafter"} | ({"architecture": "tiny"} if tiny else {})
    config = configure(registry=registry, backbone=backbone, reward=[{"name": "jpeg_size"}], **row)
    if not torch.cuda.is_available():
        whole = with_prompts(with_random_files(config, registry), registry)
        return dict(memory_facts(whole, registry, validation=False))
    found = bench(config, steps=1, warmup=1, operations=False, registry=registry)
    kept = (
        "peak_allocated_gib",
        "estimated_peak_gib",
        "estimate_error",
        "seconds_per_step",
        "phase_peaks_gib",
    )
    return {name: found.get(name) for name in kept}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    registry = with_policy_gradient(with_rewards(load_registry()))
    for name, row in ROWS.items():
        try:
            found = measured(row, registry, tiny=options.tiny)
        except Exception:  # the other rows are still wanted
            found = {"failed": traceback.format_exc()[-3000:]}
        print(json.dumps({"row": name, **found}), flush=True)


if __name__ == "__main__":
    main()
