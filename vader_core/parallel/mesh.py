"""The processes of a run as torch's device meshes: who shares weights, who shares a sequence."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed as dist
from torch.distributed import distributed_c10d
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from vader_core.parallel.layout import Layout


class Mesh:
    """Groups of neighbours among processes that have found each other.

    Making one, and each of its meshes, is everyone's work.

    Args:
        layout: Who shares what.
        device: Where this process computes.
        turn: Which of its machine's processes this one is, and how many the largest machine has; asked of all
            of them by default.
        timeout: Seconds that a process waits for the others of its groups; torch's own by default.
    """

    def __init__(
        self,
        layout: Layout,
        device: torch.device,
        turn: tuple[int, int] | None = None,
        timeout: float | None = None,
    ) -> None:
        self.layout, self.device, self._timeout = layout, device, timeout
        self._turn, self._turns = self._asked() if turn is None else turn
        # At once: made within one's turn they would wait for processes that wait for theirs.
        if layout.shard > 1:
            self.weights = self._weights()
        if layout.context > 1:
            self.sequence = self._sequence()
        self.bound_waits()

    def bound_waits(self) -> None:
        """Let every group that there is wait as long as all processes together do: torch's own are others."""
        if self._timeout is None:
            return
        for group in list(distributed_c10d._world.pg_map):
            distributed_c10d._set_pg_timeout(timedelta(seconds=self._timeout), group)

    def _asked(self) -> tuple[int, int]:
        turns = [0] * self.layout.world
        dist.all_gather_object(turns, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        return int(os.environ.get("LOCAL_RANK", "0")), max(turns)

    def _weights(self) -> DeviceMesh:
        """Those that share one copy of the weights; in front, where there are several, its copies."""
        world, shard = self.layout.world, self.layout.shard
        if shard == world:
            return init_device_mesh(self.device.type, (world,), mesh_dim_names=("shard",))
        shape = (world // shard, shard)
        return init_device_mesh(self.device.type, shape, mesh_dim_names=("replicate", "shard"))

    def _sequence(self) -> DeviceMesh:
        """Those that share one sequence, as diffusers names two ways of it: ``ring`` (1), ``ulysses``."""
        shape = (self.layout.data, 1, self.layout.context)
        mesh = init_device_mesh(self.device.type, shape, mesh_dim_names=("data", "ring", "ulysses"))
        return mesh["ring", "ulysses"]

    @contextmanager
    def own_turn(self) -> Iterator[None]:
        """Within, no other process of this machine is within: one model in its memory at a time."""
        for _ in range(self._turn):
            self._wait()
        yield
        for _ in range(self._turn, self._turns - 1):
            self._wait()

    def _wait(self) -> None:
        # Objects travel over gloo: a barrier would take a device that may be busy loading.
        dist.all_gather_object([None] * self.layout.world, None)
