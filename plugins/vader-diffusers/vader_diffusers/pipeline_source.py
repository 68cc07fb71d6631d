"""Where a pipeline's files lie, and what its JSON files say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vader_core.errors import VaderError
from vader_core.hub import guarded
from vader_core.paths import entered
from vader_core.weights import WeightSource, in_brackets, parse_weights
from vader_diffusers.options import PipelineOptions
from vader_diffusers.published_models import Published, alike, named, published

INDEX = "model_index"
#: Files that hold a component's configuration.
_CONFIGS = ("config.json", "scheduler_config.json")
_SINGLE = (".safetensors", ".gguf", ".ckpt", ".pt", ".pth", ".bin")

Folder = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class PipelineSource:
    """A pipeline before any weight is read.

    Args:
        where: A local folder or a repository; ``None`` where the weights are random.
        revision: Of the repository.
        folder: What its JSON files say, by component; ``model_index`` among them.
        model: The published model it is, or is like in its denoisers.
    """

    where: str | None
    revision: str | None
    folder: Folder
    model: Published | None

    @property
    def index(self) -> Mapping[str, Any]:
        """``model_index.json``."""
        return self.folder[INDEX]

    def config(self, component: str) -> Mapping[str, Any]:
        """A component's configuration; empty where there is no such component."""
        return self.folder.get(component, {})


def open_source(backbone: str, options: PipelineOptions, default: str | None) -> PipelineSource:
    """Read the JSON files that ``weights``, ``model`` and ``architecture`` mean, and nothing else.

    Args:
        backbone: The registered name.
        options: Its options.
        default: The model that ``pretrained`` means by itself; ``None`` where a folder has to be named.

    Raises:
        VaderError: Options that contradict each other, or a folder that is no pipeline.
    """
    source = parse_weights(options.weights)
    _refuse_contradictions(backbone, options, source)
    if source.kind == "random" and options.architecture is not None:
        return _architecture(backbone, options.architecture)
    if source.kind == "path" and source.path is not None:
        folder = read_folder(source.path, needed_for=f"backbone {backbone!r}")
        return PipelineSource(str(source.path), None, folder, alike(backbone, folder, place=str(source.path)))
    if source.kind == "hub":
        return _hub(backbone, source)
    chosen = options.model or default
    if chosen is None:
        raise VaderError(
            f"backbone {backbone!r} needs a pipeline: give --weights FOLDER or --weights hub:OWNER/NAME"
        )
    model = named(backbone, chosen)
    if source.kind == "pretrained" and model.repository is None:
        raise VaderError(
            f"backbone {backbone!r}: model {model.name!r} is made for tests and has no weights: "
            "use --weights random with it"
        )
    where = model.repository if source.kind == "pretrained" else None
    return PipelineSource(where, None, model.folder, model)


def _refuse_contradictions(backbone: str, options: PipelineOptions, source: WeightSource) -> None:
    if options.architecture is not None and source.kind != "random":
        raise VaderError(
            f"backbone {backbone!r}: backbone.architecture belongs to --weights random; stored weights bring "
            "their own"
        )
    if options.model is not None and (source.kind in ("path", "hub") or options.architecture is not None):
        other = (
            "backbone.architecture" if options.architecture is not None else f"--weights {options.weights}"
        )
        raise VaderError(
            f"backbone {backbone!r}: backbone.model={options.model} and {other} both say which model it is: "
            "leave one out"
        )


def _architecture(backbone: str, architecture: str) -> PipelineSource:
    path = entered(architecture)
    if path.is_dir():
        folder = read_folder(path, needed_for=f"backbone {backbone!r}")
        return PipelineSource(None, None, folder, alike(backbone, folder, place=architecture))
    model = named(backbone, architecture)
    return PipelineSource(None, None, model.folder, model)


def _hub(backbone: str, source: WeightSource) -> PipelineSource:
    if source.file:
        raise VaderError(
            f"backbone {backbone!r} reads whole repositories in diffusers' layout, not one file: write "
            f"hub:{source.repository}"
        )
    if source.revision is None:
        for model in published(backbone).values():
            if model.repository == source.repository:
                return PipelineSource(source.repository, None, model.folder, model)
    folder = read_folder(_download_json(backbone, source), needed_for=f"backbone {backbone!r}")
    known = alike(backbone, folder, place=source.repository)
    return PipelineSource(source.repository, source.revision, folder, known)


def _download_json(backbone: str, source: WeightSource) -> Path:
    """The repository's JSON files alone, a few kilobytes."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    wanted = [f"{INDEX}.json", *(f"*/{name}" for name in _CONFIGS)]
    try:
        with guarded():
            found = snapshot_download(source.repository, revision=source.revision, allow_patterns=wanted)
    except GatedRepoError as error:
        raise VaderError(gated(backbone, source.repository)) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise VaderError(
            f"backbone {backbone!r}: hub repository {source.repository} is not here and could not be read "
            f"({type(error).__name__}): go online, or give --weights FOLDER"
        ) from error
    return Path(found)


def gated(backbone: str, repository: str) -> str:
    """What to do about a repository that asks for an accepted licence."""
    return (
        f"backbone {backbone!r}: hub repository {repository} is gated: accept its licence on the hub and set "
        "HF_TOKEN, or give --weights FOLDER"
    )


def read_folder(path: Path, *, needed_for: str) -> Folder:
    """The JSON files of a pipeline's folder, by component.

    Raises:
        VaderError: A single-file checkpoint, no pipeline, or half a download, saying what to do.
    """
    if path.is_file():
        raise VaderError(_single_file(path, needed_for))
    if not (path / f"{INDEX}.json").is_file():
        files = sorted(file.name for file in path.glob("*") if file.suffix in _SINGLE)
        if files:
            raise VaderError(_single_file(path / files[0], needed_for))
        raise VaderError(
            f"{needed_for}: {path} is not a pipeline of diffusers: it has no {INDEX}.json; give the folder "
            "that `save_pretrained` of a pipeline wrote, or hub:OWNER/NAME"
        )
    index = _json(path / f"{INDEX}.json", needed_for)
    folder: dict[str, Mapping[str, Any]] = {INDEX: index}
    for component in components(index):
        configs = [path / component / name for name in _CONFIGS if (path / component / name).is_file()]
        if configs:
            folder[component] = _json(configs[0], needed_for)
        elif not (path / component).is_dir():
            raise VaderError(
                f"{needed_for}: {path} is half a download: {INDEX}.json names {component!r}, but there is no "
                "such folder; download it again"
            )
    return folder


def components(index: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """(library, class) of every component that ``model_index.json`` names and that is there."""
    pairs = {name: value for name, value in index.items() if isinstance(value, list | tuple)}
    return {name: (pair[0], pair[1]) for name, pair in pairs.items() if len(pair) == 2 and pair[1]}


def check_weights(path: Path, index: Mapping[str, Any], *, needed_for: str) -> None:
    """Refuse a local folder in which weights of a component are missing.

    Raises:
        VaderError: Naming the component and the first file that is missing.
    """
    for component, (_, kind) in components(index).items():
        folder = path / component
        if kind.endswith(("Scheduler", "Processor", "Guidance")) or "Tokenizer" in kind:
            continue
        for listing in folder.glob("*.index.json"):
            wanted = sorted(set(_json(listing, needed_for)["weight_map"].values()))
            missing = [name for name in wanted if not (folder / name).is_file()]
            if missing:
                raise VaderError(
                    f"{needed_for}: {path} is half a download: {len(missing)} of {len(wanted)} weight files "
                    f"of {component!r} are missing, first {missing[0]}; download it again"
                )
        if not any(file.suffix in (".safetensors", ".bin") for file in folder.glob("*")):
            raise VaderError(
                f"{needed_for}: {path} is half a download: there are no weights in {component!r}; download "
                "it again"
            )


def _json(path: Path, needed_for: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise VaderError(f"{needed_for}: {path} is not readable JSON ({error}); download it again") from error
    if not isinstance(found, dict):
        raise VaderError(f"{needed_for}: {path} holds no mapping; download it again")
    return found


def _single_file(path: Path, needed_for: str) -> str:
    return (
        f"{needed_for}: {path} is a single-file checkpoint{in_brackets(path)}; this backbone reads folders "
        "in diffusers' layout. Convert it once: load its transformer with from_single_file of diffusers, put "
        "it into the pipeline of the published repository, and save_pretrained(FOLDER)"
    )
