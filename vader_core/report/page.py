"""The page: a run directory in, ``report.html`` out."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from vader_core.files import replacing
from vader_core.report.curves import Line, chart, number, smoothed
from vader_core.run.record import Clip, Record, Samples, curve, read_record

NAME = "report.html"
#: At most so many prompts are shown side by side; the rest stays in the samples folder.
MOST_PAIRS = 24

_WATCH = {
    "diversity": "diversity across seeds",
    "motion": "motion energy",
    "saturation": "saturation",
    "contrast": "contrast",
    "over_exposure": "over-exposure",
    "base_distance": "distance from the base model",
}


def write_report(run_directory: Path) -> Path:
    """Write the run's page from the run directory alone.

    Args:
        run_directory: What the run has not written yet is left out of the page.

    Returns:
        ``report.html`` in it: no request to anywhere, clips inside, readable without scripts.

    Raises:
        VaderError: Not a run directory, or a file in it that cannot be read.
    """
    record = read_record(Path(run_directory))
    path = record.folder / NAME
    with replacing(path) as beside:
        beside.write_text(page(record), encoding="utf-8")
    return path


def page(record: Record) -> str:
    """The page as text."""
    title = escape(f"{record.folder.resolve().name}: {_aligned(record)}")
    sections = (
        _header(record),
        _headline(record),
        _alarms(record),
        _clips(record),
        _evaluation(record),
        _reward_curves(record),
        _watch(record),
        _training_curves(record),
        _timings(record),
        _environment(record),
        _configuration(record),
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_resource('style.css')}</style></head>\n<body>"
        f"{''.join(sections)}<script>{_resource('controls.js')}</script></body></html>\n"
    )


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _aligned(record: Record) -> str:
    backbone = (record.tree.get("backbone") or {}).get("name") or "a model"
    return f"{backbone}, aligned with {', '.join(record.rewards) or 'no reward'}"


# -- the top -------------------------------------------------------------------------------------------------


def _header(record: Record) -> str:
    tree = record.tree
    video = tree.get("video") or {}
    size = f"{video.get('height')}×{video.get('width')}, {video.get('num_frames')} frames"
    facts = {
        "backbone": (tree.get("backbone") or {}).get("name"),
        "video": size if video.get("height") else None,
        "sampler": (tree.get("sampling") or {}).get("sampler"),
        "sampling steps": (tree.get("sampling") or {}).get("num_steps"),
        "gradient": tree.get("gradient"),
        "prompts": (tree.get("prompts") or {}).get("source"),
        "begun": record.environment.get("time"),
    }
    shown = "".join(
        f"<span>{escape(name)} <b>{escape(str(value))}</b></span>" for name, value in facts.items() if value
    )
    return (
        f"<header><h1>{escape(record.folder.resolve().name)}</h1><p>{escape(_aligned(record))}</p>"
        f'<div class="facts">{shown}</div></header>'
    )


def _headline(record: Record) -> str:
    cards = [_reward_card(record, name) for name in record.rewards]
    queries = record.queries()
    if queries is not None:
        cards.append(_card("reward queries", f"{queries:,}", f"in {record.steps():,} optimizer steps"))
    pace = record.seconds_a_step()
    more = f"{number(pace)} s a step (median)" if pace is not None else ""
    cards.append(_card("training time", _duration(record.seconds()), more))
    return f'<div class="headline">{"".join(cards)}</div>'


def _reward_card(record: Record, name: str) -> str:
    found = (record.summary.get("evaluation") or {}).get(name)
    if found:
        low, high = found["ci95"]
        more = (
            f"{number(found['difference'], signed=True)}, 95 % interval {number(low, signed=True)} to "
            f"{number(high, signed=True)}; better in {found['win_rate']:.0%}"
        )
        return _card(name, _change(found["base"], found["tuned"]), more)
    points = curve(record.validations, "rewards", name)
    if len(points) > 1:
        (_, before), (step, after) = points[0], points[-1]
        more = f"validation, base to step {step:g}: {number(after - before, signed=True)}"
        return _card(name, _change(before, after), more)
    points = curve(record.train, "rewards", name)
    if points:
        return _card(name, _change(points[0][1], points[-1][1]), "first and last training step")
    return _card(name, "–", "not scored yet")


def _change(before: float, after: float) -> str:
    return f'<span class="from">{number(before)} →</span> <span class="to">{number(after)}</span>'


def _card(what: str, value: str, more: str) -> str:
    return (
        f'<div class="number"><div class="what">{escape(what)}</div><div class="value">{value}</div>'
        f'<div class="more">{escape(more)}</div></div>'
    )


def _alarms(record: Record) -> str:
    if not record.alarms:
        return ""
    lines = "".join(
        f"<li><b>step {escape(str(alarm.get('step')))}</b>: {escape(str(alarm.get('message', '')))}</li>"
        for alarm in record.alarms
    )
    best = record.best_step()
    kept = f"<p>checkpoints/best holds step {best}, the highest reward without an alarm.</p>" if best else ""
    return f'<section class="alarms"><h2>Alarms</h2><ul>{lines}</ul>{kept}</section>'


# -- clips ---------------------------------------------------------------------------------------------------


def _clips(record: Record) -> str:
    if not record.samples:
        return ""
    last = record.samples[-1]
    chosen = [samples for samples in record.samples if samples.step in (0, record.best_step())]
    shown = [samples for samples in chosen if samples is not last] + [last]
    seeds = len({clip.seed for clip in last.clips}) > 1
    pairs = "".join(_pair(clip, shown, with_seed=seeds) for clip in last.clips[:MOST_PAIRS])
    note = "The same prompt and the same noise on every side." if len(shown) > 1 else "One validation so far."
    if len(last.clips) > MOST_PAIRS:
        note += f" {MOST_PAIRS} of {len(last.clips)} are shown; all are in samples/."
    small = " small" if record.clips_are_small else ""
    return (
        f'<section><h2>Before and after</h2><p class="note">{note}</p>'
        '<div class="controls" hidden><button type="button">Pause</button>'
        '<button type="button">From the start</button></div>'
        f'<div class="clips{small}">{pairs}</div></section>'
    )


def _pair(clip: Clip, shown: Sequence[Samples], *, with_seed: bool) -> str:
    """One prompt: a clip of every shown validation, the last one's on the right."""
    sides = [
        _side(found, _label(samples), "after" if samples is shown[-1] else "before")
        for samples in shown
        for found in samples.clips
        if (found.prompt, found.seed) == (clip.prompt, clip.seed)
    ]
    seed = f' <span class="seed">seed {clip.seed}</span>' if with_seed else ""
    columns = "sides three" if len(shown) > 2 else "sides"
    return (
        f'<article class="pair"><p class="prompt">{escape(clip.prompt) or "(no text)"}{seed}</p>'
        f'<div class="{columns}">{"".join(sides)}</div></article>'
    )


def _label(samples: Samples) -> str:
    return "base model" if samples.step == 0 else f"step {samples.step}"


def _side(clip: Clip, label: str, style: str) -> str:
    data = base64.b64encode(clip.path.read_bytes()).decode("ascii")
    scores = "".join(f"<br>{escape(name)} {number(value)}" for name, value in clip.scores.items())
    about = escape(f"{label}: {clip.prompt}", quote=True)
    return (
        f'<figure class="side {style}"><video muted loop autoplay playsinline controls aria-label="{about}" '
        f'src="data:video/mp4;base64,{data}"></video>'
        f"<figcaption><b>{escape(label)}</b>{scores}</figcaption></figure>"
    )


# -- figures -------------------------------------------------------------------------------------------------


def _evaluation(record: Record) -> str:
    found = record.summary.get("evaluation") or {}
    if not found:
        return ""
    rows = "".join(_evaluation_row(record, name, row) for name, row in found.items())
    pairs = record.summary.get("pairs")
    note = f"{pairs} held-out pairs of prompt and seed; " if pairs else ""
    head = "".join(
        f"<th>{name}</th>"
        for name in ("reward", "role", "base", "tuned", "difference", "95 % interval", "win rate")
    )
    return (
        f'<section><h2>Evaluation</h2><p class="note">{note}base and tuned model are given the same noise. '
        "The interval is a paired bootstrap.</p>"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        "</section>"
    )


def _evaluation_row(record: Record, name: str, row: Mapping[str, Any]) -> str:
    low, high = row["ci95"]
    clear = "better" if low > 0 else "worse" if high < 0 else ""
    cells = (
        "trained" if name in record.rewards else "monitored",
        number(row["base"]),
        number(row["tuned"]),
        f'<span class="{clear}">{number(row["difference"], signed=True)}</span>',
        f"{number(low, signed=True)} to {number(high, signed=True)}",
        f"{row['win_rate']:.0%}",
    )
    return f"<tr><th>{escape(name)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _charts(title: str, note: str, charts: Iterable[str]) -> str:
    drawn = [one for one in charts if one]
    if not drawn:
        return ""
    return (
        f'<section><h2>{escape(title)}</h2><p class="note">{escape(note)}</p>'
        f'<div class="charts">{"".join(drawn)}</div></section>'
    )


def _reward_curves(record: Record) -> str:
    marks = [float(alarm.get("step", 0)) for alarm in record.alarms]

    def one(name: str) -> str:
        trained = curve(record.train, "rewards", name)
        lines = [
            Line("training batch", smoothed(trained), "faint"),
            Line("validation", curve(record.validations, "rewards", name), "trained", dots=True),
        ]
        return chart(name, lines, marks)

    return _charts(
        "Trained rewards",
        "Training batches (a moving mean) and held-out validation prompts, over optimizer steps.",
        [one(name) for name in record.rewards],
    )


def _watch(record: Record) -> str:
    marks = [float(alarm.get("step", 0)) for alarm in record.alarms]
    monitored = [
        chart(name, [Line(name, curve(record.validations, "monitors", name), "watched", dots=True)], marks)
        for name in record.monitors
    ]
    watched = [
        chart(label, [Line(label, curve(record.validations, "watch", name), "watched", dots=True)], marks)
        for name, label in _WATCH.items()
    ]
    alarmed = "A dashed line marks an alarm." if record.alarms else "No alarm was raised."
    return _charts(
        "The watch",
        f"Rewards that are not trained, and statistics that no reward sees, on validation samples. {alarmed}",
        monitored + watched,
    )


def _training_curves(record: Record) -> str:
    wanted = {
        "loss": "loss",
        "grad_norm": "gradient norm before clipping",
        "learning_rate": "learning rate",
        "seconds": "seconds a step",
        "memory_gib": "peak memory, GiB",
    }
    charts = [chart(label, [Line(label, curve(record.train, name))]) for name, label in wanted.items()]
    skipped = record.skipped()
    note = f"Over optimizer steps; {skipped} skipped as not finite." if skipped else "Over optimizer steps."
    return _charts("Training", note, charts)


# -- tables --------------------------------------------------------------------------------------------------


def _table(title: str, rows: Mapping[str, Any]) -> str:
    shown = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(_words(value))}</td></tr>"
        for name, value in rows.items()
        if value not in (None, "", [], {})
    )
    if not shown:
        return ""
    return f'<section><h2>{escape(title)}</h2><table class="plain"><tbody>{shown}</tbody></table></section>'


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {inner}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return " ".join(str(inner) for inner in value)
    return str(value)


def _timings(record: Record) -> str:
    pace, memory, queries = record.seconds_a_step(), record.memory_gib(), record.queries()
    seconds = record.seconds()
    rows: dict[str, Any] = {
        "steps": f"{record.steps():,}",
        "training": f"{seconds:,.1f} s",
        "a step": f"{pace:.3g} s (median)" if pace is not None else None,
        "reward queries": f"{queries:,} ({queries / seconds:.3g} a second)"
        if queries and seconds
        else queries,
        "peak memory": f"{memory:.2f} GiB" if memory else None,
        "skipped steps": record.skipped() or None,
    }
    extra = {
        name.replace("_", " "): f"{value:,.1f} s"
        for name, value in record.summary.items()
        if name.endswith("_seconds") and name != "train_seconds" and isinstance(value, int | float)
    }
    return _table("Timings", rows | extra)


def _environment(record: Record) -> str:
    return _table(
        "Environment", {name.replace("_", " "): value for name, value in record.environment.items()}
    )


def _configuration(record: Record) -> str:
    return (
        '<section><h2>Configuration</h2><p class="note">As <code>--config</code> reads it back.</p>'
        f"<details><summary>config.yaml</summary><pre>{escape(record.config)}</pre></details></section>"
    )


def _duration(seconds: float) -> str:
    """Seconds, minutes or hours, as a person would say it."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h"
