"""What stands at the top of the page: what was trained and why, and how far it came."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import datetime

from vader_core.progress import counted
from vader_core.report.numbers import number
from vader_core.run.record import Record, curve

#: The words of the page, for a reader who meets them for the first time.
GLOSSARY = {
    "base model": "The video model before this training. The same noise makes both clips of a pair, so what "
    "differs is what was learned.",
    "step": "One update of the weights. A validation samples clips with the weights of that step.",
    "reward": "A score that the training pushes up; higher is better. Its unit is its own.",
    "monitor": "A score that is not trained on. Where the reward rises and a monitor falls, the model has "
    "learned to please the reward and not the eye: an alarm says so.",
    "held-out": "Prompts that the training never drew.",
    "95 % interval": "Where the mean difference lies, were the prompts and seeds drawn again. One that holds "
    "0 proves nothing.",
    "pairs won": "Share of the pairs in which the tuned model scores higher.",
}


#: Words that only a run with such scores has.
_OF_SCORES = ("95 % interval", "pairs won")


def glossary(record: Record) -> dict[str, str]:
    """The words that this run's page uses, explained."""
    left_out = [] if record.rewards else ["reward"]
    left_out += [] if record.monitors else ["monitor"]
    left_out += [] if record.rewards or record.monitors else _OF_SCORES
    shown = {word: meaning for word, meaning in GLOSSARY.items() if word not in left_out}
    if "monitor" in shown and not record.rewards:  # the rest compares it with a reward
        shown["monitor"] = f"{GLOSSARY['monitor'].partition('.')[0]}."
    return shown


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
    if not record.rewards and record.setup.data:
        return f"{backbone}, fine-tuned on clips"
    return f"{backbone}, aligned with {', '.join(record.rewards) or 'no reward'}"


def sentence(record: Record) -> str:
    """What was trained, and why, in one sentence."""
    setup, steps = record.setup, record.steps()
    backbone = _described(setup.backbone or "The model", record.about)
    done = f"for {steps:,} {'step' if steps == 1 else 'steps'}" if steps else "and has made no step yet"
    why = []
    if record.rewards:
        rewards = " and ".join(_described(name, record.about) for name in record.rewards)
        why.append(f"so that its clips score higher on {rewards}")
    if setup.data:
        why.append(f"to make clips like those of {setup.data}")
    watched = [name for name in record.monitors if name not in record.rewards]
    tail = f"; {' and '.join(watched)} only watched, as a check" if watched else ""
    return f"{backbone} was tuned {done}{', ' if why else ''}{' and '.join(why)}{tail}."


def _described(name: str, about: dict[str, str]) -> str:
    summary = about.get(name, "").rstrip(".")
    return f"{name} ({summary})" if summary else name


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
        "started": readable_time(record.environment.get("time")),
    }
    return {name: value for name, value in found.items() if value}


def readable_time(text: str | None) -> str | None:
    """A time as people write it; what is none stays as it is.

    >>> readable_time("2026-11-26T16:12:20+00:00"), readable_time("soon")
    ('26 November 2026, 16:12 UTC', 'soon')
    """
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return text
    months = "January February March April May June July August September October November December"
    zone = " UTC" if time.utcoffset() is not None and not time.utcoffset() else ""
    return f"{time.day} {months.split()[time.month - 1]} {time.year}, {time.hour:02d}:{time.minute:02d}{zone}"


def commands(record: Record) -> dict[str, str]:
    """Command lines that a reader may want, by what they do."""
    folder = shlex.quote(record.shown_folder)
    apart = shlex.quote(f"{record.name}-peft")
    return {
        "Copy: sample with it": f"vader sample --lora {folder} --prompts 'text:…' --base --out clips",
        "Copy: go on with it": f"vader train --resume {folder} --max-steps {max(record.steps(), 1) * 2}",
        "Copy: the LoRA for other programs": f"vader lora convert {folder} {apart} --to peft",
    }


def cards(record: Record) -> list[Card]:
    """A card for each trained reward, the reward queries where there were any, and the time."""
    found = [_reward_card(record, name) for name in record.rewards]
    queries = record.queries()
    if queries is not None:
        steps = counted(record.steps(), "optimizer step")
        found.append(Card("reward queries", f"{queries:,}", f"in {steps}"))
    pace = record.seconds_a_step()
    more = f"{number(pace)} s per step (median)" if pace is not None else ""
    found.append(Card("training time", _duration(record.seconds()), more))
    return found


def _reward_card(record: Record, name: str) -> Card:
    found = record.summary.evaluation.get(name)
    if found:
        more = (
            f"{number(found.difference, signed=True)}, 95 % interval {number(found.low, signed=True)} to "
            f"{number(found.high, signed=True)}; better in {found.win_rate:.0%}"
            f"{_of_pairs(record)}"
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


def _of_pairs(record: Record) -> str:
    return f" of {record.summary.pairs:,} pairs" if record.summary.pairs else ""


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
