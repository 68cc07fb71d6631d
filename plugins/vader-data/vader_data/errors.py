"""What can go wrong with one clip, as opposed to with the run."""

from __future__ import annotations

from vader_core.errors import MachineError, MissingDependencyError, VaderError


class ClipError(VaderError):
    """One clip cannot be used: its row is rejected with this reason and the run goes on."""


#: What stops a run even where it happens while one clip is worked on: it would happen to every clip.
STOPS_THE_RUN = (MachineError, MissingDependencyError, MemoryError)


def reason(error: Exception) -> str:
    r"""The error as one line of at most 200 characters, for ``reject_reason``.

    >>> reason(ValueError("no\nframes"))
    'ValueError: no frames'
    """
    text = " ".join(str(error).split())
    return (text if isinstance(error, VaderError) else f"{type(error).__name__}: {text}")[:200]


def stops_the_run(error: Exception) -> bool:
    """Whether an error met at one clip is the run's: a full disk, a missing package, a bad option."""
    if isinstance(error, ClipError):
        return False
    if isinstance(error, (*STOPS_THE_RUN, VaderError)):
        return True
    return type(error).__name__ == "OutOfMemoryError"  # torch's, without importing torch
