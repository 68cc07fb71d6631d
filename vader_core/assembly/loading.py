"""Everything that a run loads, in the order that asks for least memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vader_core.assembly.levers import check_levers, pull_levers

if TYPE_CHECKING:
    from vader_core.assembly.parts import Assembly


def load_parts(assembly: Assembly, encode: Callable[[], None]) -> None:
    """Load backbone, adapter and rewards, encode the texts, and pull the levers.

    With ``trainer.offload`` the rewards come first, each put to rest before the next is made, so that no two
    networks of theirs and the denoiser's are on the device together.

    Args:
        assembly: Prepared.
        encode: Encodes the texts and lets the encoder go; called before rewards are loaded onto the device.
    """
    check_levers(assembly)
    offload = None
    if assembly.config.trainer.offload:
        from vader_core.performance.offload import Offload

        offload = Offload(assembly.device)
        assembly.load_rewards(then=offload.reward)
    assembly.load_backbone()
    if offload is not None:
        offload.backbone(assembly.backbone)
    encode()
    assembly.attach()
    if offload is None:
        assembly.load_rewards()
    pull_levers(assembly, offload)
