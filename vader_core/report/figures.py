"""The page's charts and tables: which figures, under which name."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from vader_core.report.curves import Line, chart, smoothed
from vader_core.run.record import Outcome, Record, curve

#: Fewer points than this are told in a table: a chart of two points is a straight line.
FEWEST = 4

_WATCH = {
    "diversity": "diversity across seeds",
    "motion": "motion energy",
    "saturation": "saturation",
    "contrast": "contrast",
    "over_exposure": "over-exposure",
    "base_distance": "distance from the base model",
}
_TRAINING = {
    "loss": "loss",
    "grad_norm": "gradient norm before clipping",
    "learning_rate": "learning rate",
    "seconds": "seconds per step",
    "memory_gib": "peak memory, GiB",
}


@dataclass(frozen=True)
class Row:
    """One reward in the table of the evaluation.

    Args:
        name: The reward.
        role: ``trained`` or ``monitored``.
        outcome: Its figures.
        verdict: ``better`` or ``worse`` where the interval leaves no doubt, else empty.
    """

    name: str
    role: str
    outcome: Outcome
    verdict: str


def evaluation_rows(record: Record) -> list[Row]:
    """The closing evaluation, in the run's order."""
    return [
        Row(
            name=name,
            role="trained" if name in record.rewards else "monitored",
            outcome=outcome,
            verdict="better" if outcome.low > 0 else "worse" if outcome.high < 0 else "",
        )
        for name, outcome in record.summary.evaluation.items()
    ]


def reward_charts(record: Record) -> list[Markup]:
    """The trained rewards: training batches and validations."""
    charts = []
    for name in record.rewards:
        lines = [
            Line("training batch", smoothed(curve(record.train, "rewards", name)), "faint"),
            Line("validation", curve(record.validations, "rewards", name), "trained", dots=True),
        ]
        charts.append(chart(name, lines, _marks(record)))
    if max(len(record.train), len(record.validations)) < FEWEST:
        return []
    return [one for one in charts if one]


def watch_charts(record: Record) -> list[Markup]:
    """The monitors, then the statistics that no reward sees; fewer than four points are no curve."""
    if len(record.validations) < FEWEST:
        return []
    wanted = [("monitors", name, name) for name in record.monitors]
    wanted += [("watch", name, label) for name, label in _WATCH.items()]
    charts = [
        chart(
            label, [Line(label, curve(record.validations, kind, name), "watched", dots=True)], _marks(record)
        )
        for kind, name, label in wanted
    ]
    return [one for one in charts if one]


@dataclass(frozen=True)
class Watched:
    """One figure of the first and the last validation.

    Args:
        name: What it is.
        first: At the first validation.
        last: At the last.
        kind: ``reward`` or ``watched``.
    """

    name: str
    first: float
    last: float
    kind: str


def watched_rows(record: Record) -> list[Watched]:
    """The first and the last validation, while there are too few for charts."""
    if not 2 <= len(record.validations) < FEWEST:
        return []
    wanted = [("rewards", name, name) for name in record.rewards]
    wanted += [("monitors", name, name) for name in record.monitors]
    wanted += [("watch", name, label) for name, label in _WATCH.items()]
    found = []
    for kind, name, label in wanted:
        points = curve(record.validations, kind, name)
        if len(points) > 1:
            said = "reward" if kind == "rewards" else "watched"
            found.append(Watched(label, points[0][1], points[-1][1], said))
    return found


def training_charts(record: Record) -> list[Markup]:
    """Loss, gradient, rate, time and memory."""
    if len(record.train) < FEWEST:
        return []
    charts = [chart(label, [Line(label, curve(record.train, name))]) for name, label in _TRAINING.items()]
    return [one for one in charts if one]


def timings(record: Record) -> dict[str, str]:
    """Steps, times and memory, as text by name; what is not known is left out."""
    pace, memory, queries = record.seconds_a_step(), record.memory_gib(), record.queries()
    seconds, skipped = record.seconds(), record.skipped()
    found = {"steps": f"{record.steps():,}", "training": f"{seconds:,.1f} s"}
    if pace is not None:
        found["per step"] = f"{pace:.3g} s (median)"
    if queries is not None:
        rate = f" ({queries / seconds:.3g} per second)" if queries and seconds else ""
        found["reward queries"] = f"{queries:,}{rate}" if rate else str(queries)
    if memory:
        found["peak memory"] = f"{memory:.2f} GiB"
    if skipped:
        found["skipped steps"] = str(skipped)
    extra = {
        f"{name.replace('_', ' ')} seconds": f"{value:,.1f} s"
        for name, value in record.summary.other_seconds.items()
    }
    return found | extra


def _marks(record: Record) -> list[float]:
    return [float(alarm.step) for alarm in record.alarms]
