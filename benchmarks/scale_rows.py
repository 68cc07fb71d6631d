"""The rows of :mod:`scale`: which model, which options, how many processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """One measurement.

    Args:
        backbone: Its section of the configuration.
        tiny: The same at tiny size.
        world: Processes.
        steps: Optimizer steps; the first warms up, unless it is the only one.
        limit: Seconds until it is given up.
        parallel: Its section.
        against: The row whose gradient, or trained weights, are compared, and after how many of its
            micro-steps.
        accumulate: Micro-steps.
        given: Further sections.
        reward: Its section.
        tiny_reward: The same at tiny size.
        turns: Rounds in which one process alone, all of them apart and all of them together take turns, at
            ``steps`` steps each, after one step that warms up; 0 for plain steps together.
    """

    backbone: dict[str, Any]
    tiny: dict[str, Any]
    world: int = 1
    steps: int = 2
    limit: int = 90
    parallel: dict[str, Any] = field(default_factory=dict)
    against: tuple[str, int] | None = None
    accumulate: int = 1
    given: dict[str, Any] = field(default_factory=dict)
    reward: dict[str, Any] = field(default_factory=lambda: {"name": "brightness"})
    tiny_reward: dict[str, Any] = field(default_factory=lambda: {"name": "brightness"})
    turns: int = 0


_WAN = {"name": "wan", "model": "2.1-1.3b"}
_A14B = {"name": "wan", "model": "2.2-a14b"}
_VC = {"name": "videocrafter"}
_LTX = {"name": "ltx", "model": "2b"}
_TINY, _PAIR = ({"name": "wan", "architecture": name} for name in ("tiny", "tiny-a14b"))
_TINY_VC = {"name": "videocrafter", "architecture": "tiny"}
_TINY_LTX = {"name": "ltx", "architecture": "tiny"}
_LARGE = {"video": {"height": 480, "width": 832, "num_frames": 81}, "sampler": {"num_steps": 4}}
#: A small clip: what the reward, or what learns, takes is what is looked at.
_SHORT = {"video": {"height": 256, "width": 448, "num_frames": 17}, "sampler": {"num_steps": 4}}
#: LTX-Video decodes all frames whatever is wanted.
_MIDDLE = {"video": {"height": 512, "width": 704, "num_frames": 97}, "sampler": {"num_steps": 4}}

#: Else the pace is the processor's, which launches many small kernels.
_GRAPHS = {"performance": {"cuda_graphs": True}}
_FASTEST = {"performance": {"cuda_graphs": True, "fold_adapter": True, "gradient_checkpointing": False}}
_ALL = {"performance": {**_FASTEST["performance"], "cuda_graphs": "all"}}

_HALVES, _SEQUENCE = {"shard": 2}, {"context": 2}
_BOTH = {**_HALVES, **_SEQUENCE}
_IN_PIECES = {"shard": 2, "shard_rewards": True}


def _videocrafter(world: int, **given: Any) -> Row:
    """One of VideoCrafter2's rows, with HPS as the reward."""
    hps = {"name": "hps", "weights": "random"}
    tiny = {**hps, "architecture": "tiny"}
    return Row(_VC, _TINY_VC, world, steps=10, limit=120, given=given, reward=hps, tiny_reward=tiny)


def _turns(world: int, **given: Any) -> Row:
    """The same, one process and several taking turns in 4 rounds of 4 steps."""
    row = _videocrafter(world, **given)
    changes: dict[str, Any] = {"steps": 4, "turns": 4, "limit": 240}
    return Row(**{**row.__dict__, **changes})


def _with_reward(world: int, **more: Any) -> Row:
    """A small model with a reward of 7B, HPSv3."""
    reward = {"name": "hps_v3", "weights": "random"}
    tiny = {**reward, "architecture": "tiny"}
    return Row(_WAN, _TINY, world, steps=3, given=_SHORT, reward=reward, tiny_reward=tiny, **more)


#: AdamW's updates have the size of the rate however small a gradient is, so that rounding decides many signs.
_LIKE_SGD = {"lr": 1.0, "eps": 1.0, "weight_decay": 0.0, "precision": "fp32"}


def _full(world: int, trainer: Mapping[str, Any] | None = None, **more: Any) -> Row:
    """All weights learn: the difference is that of how far they have moved after three steps."""
    given = {**_SHORT, "tuning": {"kind": "full"}, "trainer": trainer or {"lr": 1e-5}}
    return Row(_WAN, _TINY, world, steps=3, limit=110, given=given, **more)


def _ltx(world: int, **more: Any) -> Row:
    return Row(_LTX, _TINY_LTX, world, steps=3, limit=90, given=_MIDDLE, **more)


#: In the order of their worth.
ROWS: Mapping[str, Row] = {
    "wan-1": Row(_WAN, _TINY, accumulate=2, limit=110, given=_LARGE),
    "wan-shard": Row(_WAN, _TINY, 2, parallel=_HALVES, against=("wan-1", 2), given=_LARGE),
    "wan-context": Row(_WAN, _TINY, 2, parallel=_SEQUENCE, against=("wan-1", 1), given=_LARGE),
    "a14b-both": Row(_A14B, _PAIR, 2, steps=2, limit=150, parallel=_BOTH, given=_LARGE),
    "a14b-shard": Row(_A14B, _PAIR, 2, steps=1, limit=150, parallel=_HALVES, given=_LARGE),
    "vc2-1": _videocrafter(1, **_GRAPHS),
    "vc2-2": _videocrafter(2, **_GRAPHS),
    "vc2-turns": _turns(2, **_GRAPHS),
    "vc2-fastest-1": _videocrafter(1, **_FASTEST),
    "vc2-fastest-2": _videocrafter(2, **_FASTEST),
    "vc2-fastest-turns": _turns(2, **_FASTEST),
    "vc2-all-turns": _turns(2, **_ALL),
    "vc2-plain-1": _videocrafter(1),
    "vc2-plain-2": _videocrafter(2),
    "vc2-texts": Row(_VC, _TINY_VC, 2, steps=2, limit=80, parallel={"shard": 2, "shard_text_encoders": True}),
    "wan-data": Row(_WAN, _TINY, 2, against=("wan-1", 2), given=_LARGE),
    "wan-shard-kept": Row(
        _WAN, _TINY, 2, parallel={"shard": 2, "keep_gathered": True}, against=("wan-1", 2), given=_LARGE
    ),
    "reward-1": _with_reward(1, accumulate=2),
    "reward-shard": _with_reward(2, parallel=_HALVES, against=("reward-1", 2)),
    "reward-pieces": _with_reward(2, parallel=_IN_PIECES, against=("reward-1", 2)),
    "ltx-1": _ltx(1, accumulate=2),
    "ltx-data": _ltx(2, against=("ltx-1", 2)),
    "ltx-shard": _ltx(2, parallel=_HALVES, against=("ltx-1", 2)),
    "ltx-context": _ltx(2, parallel=_SEQUENCE, against=("ltx-1", 1)),
    "ltx-both": _ltx(2, parallel=_BOTH, against=("ltx-1", 1)),
    "full-1": _full(1, accumulate=2),
    "full-data": _full(2, against=("full-1", 2)),
    "full-shard": _full(2, parallel=_HALVES, against=("full-1", 2)),
    "full-exact-1": _full(1, _LIKE_SGD, accumulate=2),
    "full-exact-data": _full(2, _LIKE_SGD, against=("full-exact-1", 2)),
    "full-exact-shard": _full(2, _LIKE_SGD, parallel=_HALVES, against=("full-exact-1", 2)),
    # for four devices
    "vc2-turns-4": _turns(4, **_GRAPHS),
    "vc2-fastest-turns-4": _turns(4, **_FASTEST),
    "vc2-all-turns-4": _turns(4, **_ALL),
    "wan4-1": Row(_WAN, _TINY, accumulate=4, limit=150, given=_LARGE),
    "wan4-data": Row(_WAN, _TINY, 4, limit=120, against=("wan4-1", 4), given=_LARGE),
    "wan4-shard": Row(_WAN, _TINY, 4, limit=120, parallel={"shard": 4}, against=("wan4-1", 4), given=_LARGE),
    "wan4-copies": Row(_WAN, _TINY, 4, limit=120, parallel=_HALVES, against=("wan4-1", 4), given=_LARGE),
    "wan4-context": Row(
        _WAN, _TINY, 4, limit=120, parallel={"context": 4}, against=("wan4-1", 1), given=_LARGE
    ),
    "wan4-both": Row(_WAN, _TINY, 4, limit=120, parallel=_BOTH, against=("wan4-1", 2), given=_LARGE),
}
