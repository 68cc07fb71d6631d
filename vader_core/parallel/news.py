"""What the processes of a run tell each other where no collective answers any more: who failed, and of what.

Torch's launcher, and ours, keep a store that outlives the processes. Without a launcher's store every process
speaks for itself.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

from vader_core.errors import MachineError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

#: Set by our own launcher, which tells of lost processes itself.
LAUNCHED = "VADER_LAUNCHED"
#: Seconds in which all that are alive notice that one is not.
NOTICE = 2.0


class LostError(MachineError):
    """Another process of the run ended, or does not answer."""


def several() -> bool:
    """Whether this process is one of several."""
    count = os.environ.get("WORLD_SIZE", "1")
    return count.isdigit() and int(count) > 1


@cache
def _store() -> Store | None:
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or _launcher_is_gone():
        return None
    from datetime import timedelta

    from torch._C._distributed_c10d import TCPStore

    place, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        return TCPStore(place, port, is_master=False, timeout=timedelta(seconds=20))
    except (RuntimeError, OSError):
        return None


def _launcher_is_gone() -> bool:
    """Whether our own launcher has ended before its processes, and its store with it."""
    return LAUNCHED in os.environ and os.getppid() != int(os.environ[LAUNCHED])


def attempt() -> int:
    """How often torch's launcher has started this process again."""
    count = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return int(count) if count.isdigit() else 0


def agree_on_attempt(largest: int) -> None:
    """After some machines were started anew, all take part in the attempt of those that count highest."""
    os.environ["TORCHELASTIC_RESTART_COUNT"] = str(largest)


def launchers_store() -> Store | None:
    """The launcher's store, within this attempt of the run; ``None`` where there is none."""
    from torch._C._distributed_c10d import PrefixStore

    store = _store()
    return None if store is None else PrefixStore(f"vader/{attempt()}", store)


def meeting_store(seconds: float) -> Store | None:
    """Where the processes of this attempt find each other; ``None`` leaves it to torch.

    The agent of torch's launcher keeps one store for all attempts, in which the processes of the last one
    stand under the same names: who is early would look for processes that are no more. The agents of several
    machines may count attempts differently, so there it is torch's own way.

    Args:
        seconds: That a process waits for the others.
    """
    from datetime import timedelta

    from torch._C._distributed_c10d import PrefixStore, TCPStore

    kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if not kept or os.environ.get("GROUP_WORLD_SIZE", "1") != "1":
        return None
    place, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(place, port, is_master=False, timeout=timedelta(seconds=seconds))
    return PrefixStore(f"attempt/{attempt()}", store)


def speaks(error: BaseException) -> bool:
    """Whether this process is the one that tells a person of ``error``: the first to have one.

    Args:
        error: What ends this process.
    """
    if not several():
        return True
    if isinstance(error, LostError) and LAUNCHED in os.environ:
        return False
    store = launchers_store()
    if store is None:
        return not isinstance(error, LostError) or os.environ.get("RANK") == "0"
    try:
        return store.add("told", 1) == 1
    except (RuntimeError, OSError):
        return True


def lost(reason: BaseException, rank: int, world: int) -> LostError:
    """The error of a process whose collective failed: names those that did not notice in time.

    Args:
        reason: What the collective raised.
        rank: Of this process.
        world: How many there are.
    """
    late = "imed out" in str(reason) or "timeout" in str(reason).lower()
    what = "does not answer" if late else "ended"
    missing = _unnoticed(rank, world)
    who = (
        f"process {' and '.join(map(str, missing))} of {world}"
        if missing
        else f"another of {world} processes"
    )
    message = f"{who} {what}, so the run ends; continue it with --resume"
    store = launchers_store()
    if store is not None:
        with suppress(RuntimeError, OSError):
            store.set(f"lost/{rank}", message)
    return LostError(message)


def _unnoticed(rank: int, world: int) -> list[int]:
    store = launchers_store()
    if store is None:
        return []
    try:
        store.set(f"noticed/{rank}", "")
        time.sleep(NOTICE)
        return [other for other in range(world) if not store.check([f"noticed/{other}"])]
    except (RuntimeError, OSError):
        return []
