"""What a run in stages says, read for the page: its stages one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vader_core.run.names import CONFIG, STAGES
from vader_core.run.record import Alarm, Record, Samples, read_record
from vader_core.run.stages import stage_folder


def read_run(folder: Path) -> Record:
    """Read a run directory; where the run has stages, their steps are counted on.

    Raises:
        VaderError: Not a run directory, or a file in it that cannot be read.
    """
    whole, number, stages = read_record(folder), 1, []
    while (stage_folder(folder, number) / CONFIG).is_file():
        place = stage_folder(folder, number)
        if not place.resolve().is_relative_to(folder.resolve()):
            link = f"{STAGES}/{number}: is a link out of the run directory"
            whole = replace(whole, omissions=[*whole.omissions, link])
            break
        stages.append(read_record(place))
        number += 1
    return _joined(whole, stages) if stages else whole


def _joined(whole: Record, stages: Sequence[Record]) -> Record:
    """The run's own record with everything that its stages did."""
    train: list[dict[str, Any]] = []
    validations: list[dict[str, Any]] = []
    alarms: list[Alarm] = []
    samples: list[Samples] = []
    omissions, before = list(whole.omissions), 0
    for number, stage in enumerate(stages, 1):

        def is_new(step: int, number: int = number) -> bool:
            """A later stage's step 0 is the end of the one before."""
            return step > 0 or number == 1

        train += [_later(record, before) for record in stage.train]
        validations += [_later(record, before) for record in stage.validations if is_new(record["step"])]
        alarms += [replace(alarm, step=alarm.step + before) for alarm in stage.alarms]
        samples += [replace(found, step=found.step + before) for found in stage.samples if is_new(found.step)]
        omissions += [f"{STAGES}/{number}/{text}" for text in stage.omissions]
        before += stage.steps()
    return replace(
        whole,
        setup=stages[-1].setup,
        environment=stages[-1].environment,
        train=train,
        validations=validations,
        alarms=alarms,
        samples=samples,
        omissions=omissions,
    )


def _later(record: dict[str, Any], before: int) -> dict[str, Any]:
    return {**record, "step": record["step"] + before}
