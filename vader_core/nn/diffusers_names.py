"""Names in files that early versions of diffusers wrote, as today's classes have them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_ATTENTION_NAME = re.compile(r"(\.attentions\.\d+\.)(query|key|value|proj_attn)\.(weight|bias)$")


def modern_attention_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An autoencoder's tensors with `query`, `key`, `value` and `proj_attn` named as today.

    A 1x1 convolution's weight [d, d, 1, 1] becomes the linear layer's [d, d].
    """
    renamed: dict[str, Tensor] = {}
    for name, value in tensors.items():
        match = _OLD_ATTENTION_NAME.search(name)
        if match is None:
            renamed[name] = value
            continue
        prefix, old, ending = match.groups()
        linear = value[:, :, 0, 0] if value.ndim == 4 else value
        renamed[f"{name[: match.start()]}{prefix}{_OLD_ATTENTION[old]}.{ending}"] = linear
    return renamed
