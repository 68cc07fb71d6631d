"""What stands at the top of the page: what was trained, and how far it came."""

from __future__ import annotations

from dataclasses import dataclass

from vader_core.report.curves import number
from vader_core.run.record import Record, curve


@dataclass(frozen=True)
class Card:
    """One figure with its explanation.

    Args:
        what: What the figure counts.
        value: The figure.
        more: A line below it.
        before: What it was at first, where it changed.
    """

    what: str
    value: str
    more: str
    before: str | None = None


def aligned(record: Record) -> str:
    """The run in a few words."""
    backbone = record.setup.backbone or "a model"
    return f"{backbone}, aligned with {', '.join(record.rewards) or 'no reward'}"


def facts(record: Record) -> dict[str, str]:
    """What was asked for, by name; what is not known is left out."""
    setup = record.setup
    found = {
        "backbone": setup.backbone,
        "video": setup.size,
        "sampler": setup.sampler,
        "sampling steps": setup.num_steps,
        "gradient": setup.gradient,
        "prompts": setup.prompts,
        "begun": record.environment.get("time"),
    }
    return {name: value for name, value in found.items() if value}


def cards(record: Record) -> list[Card]:
    """A card for each trained reward, the reward queries, and the time."""
    found = [_reward_card(record, name) for name in record.rewards]
    queries = record.queries()
    if queries is not None:
        found.append(Card("reward queries", f"{queries:,}", f"in {record.steps():,} optimizer steps"))
    pace = record.seconds_a_step()
    more = f"{number(pace)} s a step (median)" if pace is not None else ""
    found.append(Card("training time", _duration(record.seconds()), more))
    return found


def _reward_card(record: Record, name: str) -> Card:
    found = record.summary.evaluation.get(name)
    if found:
        more = (
            f"{number(found.difference, signed=True)}, 95 % interval {number(found.low, signed=True)} to "
            f"{number(found.high, signed=True)}; better in {found.win_rate:.0%}"
        )
        return Card(name, number(found.tuned), more, before=number(found.base))
    points = curve(record.validations, "rewards", name)
    if len(points) > 1:
        (_, before), (step, after) = points[0], points[-1]
        more = f"validation, base to step {step:g}: {number(after - before, signed=True)}"
        return Card(name, number(after), more, before=number(before))
    points = curve(record.train, "rewards", name)
    if points:
        more = "first and last training step"
        return Card(name, number(points[-1][1]), more, before=number(points[0][1]))
    return Card(name, "–", "not scored yet")


def _duration(seconds: float) -> str:
    """Seconds, minutes or hours, as a person would say it.

    >>> _duration(33.0), _duration(600.0), _duration(7200.0)
    ('33 s', '10 min', '2 h')
    """
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h"
