"""Share a run: its weights, some clips and a model card, as a folder and on the hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from vader_core import __version__
from vader_core.component import Component
from vader_core.errors import MachineError, VaderError
from vader_core.lora.adapter import BASE
from vader_core.lora.reader import CONFIG_FILE
from vader_core.paths import entered, without_folder
from vader_core.progress import Progress, unseen
from vader_core.registry import Registry, load_registry
from vader_core.run.base_model import base_model
from vader_core.run.checkpoint import newest_whole
from vader_core.run.config import RunConfig
from vader_core.run.directory import Run
from vader_core.run.handed_on import handed_on
from vader_core.run.stages import newest_trained
from vader_core.tuning.full import is_full

#: What of a checkpoint is the model, and not its training.
_WEIGHTS = ("adapter_model.safetensors", "adapter_config.json", "denoiser.safetensors", "tuning.json")


def push(  # noqa: PLR0913 - what a person can ask for
    run: str | Path,
    repository: str,
    *,
    out: str | Path | None = None,
    clips: int = 4,
    best: bool = False,
    private: bool = False,
    dry_run: bool = False,
    registry: Registry | None = None,
    progress: Progress = unseen,
) -> Path:
    """Write the upload of a run, and send it to the hub.

    Args:
        run: A run directory.
        repository: ``OWNER/NAME`` on the hub; made where it is not there.
        out: Folder of the upload; ``RUN/hub`` by default, replaced.
        clips: Clips before and after, at most so many of each.
        best: The best checkpoint in place of the newest.
        private: Make the repository private where it is made.
        dry_run: Write the folder and send nothing; needs no network.
        registry: Where the components come from; the installed plugins by default.
        progress: Told what is being done.

    Returns:
        The folder of the upload.

    Raises:
        VaderError: Not a run with a whole checkpoint, a name that the hub does not take, or no token.
        MachineError: The hub cannot be reached, or refuses.
    """
    registry, whole = registry or load_registry(), entered(run)
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise VaderError(f"{repository!r} is no repository: write OWNER/NAME")
    if not (whole / "config.yaml").is_file():
        raise VaderError(f"{whole} is not a run directory: it has no config.yaml")
    folder = newest_trained(whole)  # of a run in stages its newest
    held = Run(folder)
    progress("writing the upload", 0, 0)
    place = _checkpoint(folder, best=best)
    target = whole / "hub" if out is None else entered(out)
    _fresh(target)
    names = [path.name for path in place.iterdir() if path.name in _WEIGHTS or path.suffix == ".safetensors"]
    for name in sorted(set(names) - {"optimizer.safetensors"}):
        shutil.copyfile(place / name, target / name)
    _name_alone(target / CONFIG_FILE)
    shown = _copy_clips(folder, target / "clips", clips)
    settings = (folder / "config.yaml").read_text(encoding="utf-8")
    (target / "config.yaml").write_text(handed_on(settings), encoding="utf-8")
    card = model_card(held, repository, registry, shown, full=is_full(place), step=place.name)
    (target / "README.md").write_text(card, encoding="utf-8")
    if not dry_run:
        progress(f"sending to {repository}", 0, 0)
        _send(target, repository, private=private)
    return target


def _checkpoint(folder: Path, *, best: bool) -> Path:
    if best:
        place: Path | None = folder / "checkpoints" / "best"
        if place is not None and not place.is_dir():
            raise VaderError(f"{folder} has no checkpoints/best: leave --best out")
    else:
        place = newest_whole(folder / "checkpoints")[0]
    if place is None:
        raise VaderError(f"{folder} has no whole checkpoint: there is nothing to share")
    return place


def _name_alone(adapter: Path) -> None:
    """Of the base model that an adapter's settings name, no folder of this machine."""
    if adapter.is_file():
        settings = json.loads(adapter.read_text(encoding="utf-8"))
        settings[BASE] = without_folder(settings.get(BASE) or "") or None
        adapter.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def _fresh(target: Path) -> None:
    """An empty folder, in place of an earlier upload and of nothing else."""
    if target.exists() and any(target.iterdir()):
        if not (target / "README.md").is_file() or not (target / "config.yaml").is_file():
            raise VaderError(f"{target} is not empty and no upload of a run: choose another --out")
        shutil.rmtree(target)
    target.mkdir(parents=True, exist_ok=True)


def _copy_clips(folder: Path, target: Path, most: int) -> list[dict[str, Any]]:
    """Clips of the first and the last validation, with what they were made for."""
    places = sorted((folder / "samples").glob("step-*"))
    if len(places) < 2 or most < 1:
        return []
    first, last = places[0], places[-1]
    try:
        listed = json.loads((last / "prompts.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    target.mkdir()
    found = []
    for index, entry in enumerate(listed[:most]):
        name = f"{index:02d}.mp4"
        if not ((first / name).is_file() and (last / name).is_file()):
            continue
        shutil.copyfile(first / name, target / f"base_{name}")
        shutil.copyfile(last / name, target / f"tuned_{name}")
        found.append({"prompt": str(entry.get("prompt", "")), "name": name})
    return found


def _send(target: Path, repository: str, *, private: bool) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    hub = HfApi()
    try:
        hub.create_repo(repository, private=private, exist_ok=True)
        hub.upload_folder(repo_id=repository, folder_path=target, commit_message="From a run of vader")
    except LocalTokenNotFoundError as error:
        raise VaderError("the hub wants a token: set HF_TOKEN, or run `hf auth login`") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise VaderError(
                f"the hub does not let this token write to {repository}: set HF_TOKEN to one that may"
            ) from error
        raise MachineError(f"the hub refused {repository}: {error}") from error
    except OSError as error:
        raise MachineError(
            f"the hub cannot be reached ({type(error).__name__}): the upload lies in {target}; run the "
            "command again, or use --dry-run"
        ) from error


# -- the card --------------------------------------------------------------------------------------------


def model_card(
    run: Run, repository: str, registry: Registry, clips: list[dict[str, Any]], *, full: bool, step: str
) -> str:
    """The model card: what it is, how it was made, what it scores, how to use it."""
    config, summary = run.config(), run.summary()
    base = without_folder(base_model(config, registry) or "") or None
    licence = _licence(config, registry)
    head = ["---", "tags: [text-to-video, vader" + ("]" if full else ", lora]"), "library_name: vader"]
    head += [f"base_model: {base}"] if base and "/" in base else []
    head += [f"license: {licence.lower()}" if licence and " " not in licence else "license: other", "---", ""]
    body = [*_what(config, repository, base, licence, full=full, step=step), *_scores(summary)]
    body += [*_validations(run.metrics()), *_clips(clips, repository), *_use(config, repository, full=full)]
    return "\n".join([*head, *body]) + "\n"


def _what(
    config: RunConfig, repository: str, base: str | None, licence: str | None, *, full: bool, step: str
) -> Iterator[str]:
    kind = "The whole denoiser" if full else f"A LoRA of rank {config.lora.rank}"
    rewards = ", ".join(f"`{item.name}` (weight {item.weight:g})" for item in config.reward)
    taught = f"trained with the rewards {rewards}" if rewards else "trained on clips"
    yield f"# {repository.partition('/')[2]}\n"
    yield f"{kind} for `{config.backbone.name}`{f' ({base})' if base else ''}, {taught}.\n"
    yield "## How it was made\n"
    rows = {
        "program": f"[vader](https://arxiv.org/abs/2407.08737) {__version__}",
        "objective": ", ".join(config.objective) or "reward_gradient",
        "monitors": ", ".join(item.name for item in config.monitor) or "none",
        "prompts": without_folder(config.prompts.source or config.data.source or ""),
        "video": f"{config.video.num_frames} frames of {config.video.height}x{config.video.width}, "
        f"{config.video.fps:g} fps",
        "sampler": f"{config.sampler.name}, {config.sampler.num_steps} steps, guidance "
        f"{config.sampler.guidance_scale}",
        "checkpoint": step,
        "learning rate": f"{config.trainer.lr:g}",
        "batch": str(config.trainer.batch_size * config.trainer.accumulate),
        "precision": str(config.trainer.precision),
        "licence of the base": licence or "not known: look at the base model's page",
    }
    yield "| | |\n|---|---|"
    for name, value in rows.items():
        yield f"| {name} | {value} |"
    yield f"\n`config.yaml` holds every setting. {_again(config)}\n"


def _again(config: RunConfig) -> str:
    """How it is run again: a function in a file is not part of an upload, and no configuration permits it."""
    flags, files = "", []
    for flag, items in (("--reward", config.reward), ("--monitor", config.monitor)):
        for item in items:
            if item.function_file is not None:
                file = Path(item.function_file).name
                flags += f" {flag} {file}:{item.name}"
                files.append(f"`{file}`")
    command = f"`vader train --config config.yaml{flags}`"
    if not files:
        return f"{command} runs it again."
    named = " and ".join(dict.fromkeys(files))
    return (
        f"Its own reward's code, {named}, is not in this repository (its SHA-256 is in `config.yaml`): with "
        f"that code at hand, {command} runs it again."
    )


def _scores(summary: Mapping[str, Any]) -> Iterator[str]:
    """Base against tuned, where the run compared them."""
    rows = summary.get("evaluation") or {}
    if not rows:
        return
    yield f"## Scores\n\n{summary.get('pairs', '')} pairs of prompt and seed, the same noise for both.\n"
    yield "| reward | base | tuned | change | 95 % interval | pairs won |\n|---|---|---|---|---|---|"
    for name, row in rows.items():
        low, high = row["ci95"]
        yield (
            f"| {name} | {row['base']:.4g} | {row['tuned']:.4g} | {row['difference']:+.3g} | "
            f"{low:+.3g} to {high:+.3g} | {row['win_rate']:.0%} |"
        )
    yield ""


def _validations(records: list[dict[str, Any]]) -> Iterator[str]:
    """The curve as a table: each validation's scores."""
    seen = [record for record in records if record.get("kind") == "validation"]
    if not seen:
        return
    names = list({**seen[-1]["rewards"], **seen[-1]["monitors"]})
    yield "## While it was trained\n"
    yield f"| step | {' | '.join(names)} |\n|---{'|---' * len(names)}|"
    shown = seen if len(seen) <= 12 else [seen[round(i * (len(seen) - 1) / 11)] for i in range(12)]
    for record in shown:
        scores = {**record["rewards"], **record["monitors"]}
        cells = (f"{scores[name]:.4g}" if name in scores else "" for name in names)
        yield f"| {record['step']} | {' | '.join(cells)} |"
    yield ""


def _clips(clips: list[dict[str, Any]], repository: str) -> Iterator[str]:
    if not clips:
        return
    place = f"https://huggingface.co/{repository}/resolve/main/clips"
    yield "## Clips: base, tuned, the same noise\n"
    for clip in clips:
        yield f"{clip['prompt']}\n"
        videos = (
            f'<video src="{place}/{side}_{clip["name"]}" controls loop muted></video>'
            for side in ("base", "tuned")
        )
        yield " ".join(videos) + "\n"


def _use(config: RunConfig, repository: str, *, full: bool) -> Iterator[str]:
    yield "## Use\n"
    yield f'    vader sample --backbone {config.backbone.name} --lora hub:{repository} --prompts "text:…"\n'
    if not full:
        yield "`vader lora convert` writes it for other programs."


def _licence(config: RunConfig, registry: Registry) -> str | None:
    """As the plugin declares it with the files, or for weights that it ships, the plugin's own."""
    component: Component = registry.get("backbone", str(config.backbone.name))
    declared = next((wanted.licence for wanted in component.weights if wanted.licence), None)
    weights = getattr(component.options(config.backbone.options), "weights", None)
    if declared or component.weights or weights != "pretrained":
        return declared
    shipped = {plugin.name: plugin.distribution for plugin in registry.plugins}
    try:
        about = metadata(shipped[component.plugin])
    except (KeyError, ValueError, PackageNotFoundError):  # registered in code, by no distribution
        return None
    return next(iter(about.get_all("License-Expression") or ()), None)
