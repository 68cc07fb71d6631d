"""Weights: where they come from, how they are read, and what each plugin wants.

Nothing that could run code is ever unpickled: safetensors, or ``torch.load(weights_only=True)``, whose
unpickler rebuilds tensors alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from vader_core.errors import VaderError
from vader_core.files import check_sha256, replacing
from vader_core.paths import entered
from vader_core.tensor_files import in_brackets as in_brackets
from vader_core.tensor_files import load_tensors as load_tensors
from vader_core.tensor_files import notes_of as notes_of
from vader_core.tensor_files import tensor_names as tensor_names

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vader_core.hub import Progress


#: In every name of a LoRA's tensors, and in none of a model's.
_LORA = re.compile(r"[._]lora[._]|[._]lora_|^lora_|\.alpha$")


@dataclass(frozen=True)
class WeightFile:
    """One file that a component wants.

    Args:
        repository: Hub repository, e.g. ``xswu/HPSv2``.
        file: File in it; ``""`` stands for the whole repository in its library's own layout.
        folders: Of a whole repository, the folders that are read, with the JSON files beside them; empty
            where all of it is. Repositories hold the same weights in other layouts too.
        revision: Commit to pin; ``None`` where none is known, shown as not pinned.
        sha256: Checked after every read where known.
        size: Bytes, where known.
        numbers: Parameters in it, counted on the model that reads them; tells about how large it is.
        licence: As the repository states it, where known.
        gated: Whether the repository asks for an accepted licence and a token.
        note: Anything a user must know, e.g. a second name of the repository.
        repository_type: ``model`` or ``dataset``.
        optional: Whether the component does without it; it is fetched only where it is asked for.
        when: Options of the component, each with the values with which it reads the file; a dot leads into
            an inner option. Empty: whenever its ``weights`` are ``pretrained``.
    """

    repository: str
    file: str = ""
    revision: str | None = None
    folders: tuple[str, ...] = ()
    sha256: str | None = None
    size: int | None = None
    numbers: int | None = None
    licence: str | None = None
    gated: bool = False
    note: str = ""
    repository_type: str = "model"
    optional: bool = False
    when: tuple[tuple[str, tuple[Any, ...]], ...] = ()


@dataclass(frozen=True)
class WeightSource:
    """A parsed ``--weights`` value.

    Args:
        kind: ``pretrained``, ``path``, ``hub`` or ``random``.
        path: For ``path``.
        repository: For ``hub``: ``OWNER/NAME``.
        file: For ``hub``: a file in the repository, or ``""``.
        revision: For ``hub``: a branch, tag or commit, or ``None``.
    """

    kind: str
    path: Path | None = None
    repository: str = ""
    file: str = ""
    revision: str | None = None


def parse_weights(text: str) -> WeightSource:
    """Read ``pretrained``, ``random``, ``hub:OWNER/NAME[/FILE][@REVISION]`` or a path.

    Raises:
        VaderError: A ``hub:`` form without owner and name, a path that does not exist, or a LoRA.

    >>> parse_weights("hub:xswu/HPSv2/HPS_v2_compressed.pt@main").file
    'HPS_v2_compressed.pt'
    """
    if text in ("pretrained", "random"):
        return WeightSource(text)
    if text.startswith("hub:"):
        where, _, revision = text.removeprefix("hub:").partition("@")
        owner, _, rest = where.partition("/")
        name, _, file = rest.partition("/")
        if not owner or not name:
            raise VaderError(f"weights {text!r}: write hub:OWNER/NAME, hub:OWNER/NAME/FILE or …@REVISION")
        return WeightSource("hub", repository=f"{owner}/{name}", file=file, revision=revision or None)
    path = entered(text)
    if not path.exists():
        raise VaderError(
            f"weights {text!r}: no such file or folder; allowed are `pretrained`, `random`, a path that "
            "exists, "
            "or hub:OWNER/NAME[/FILE][@REVISION]"
        )
    _refuse_adapter(path, text)
    return WeightSource("path", path=path)


def _refuse_adapter(path: Path, text: str) -> None:
    """A LoRA or a run where a model is wanted, as far as it can be told without reading a whole file."""
    kind = None
    if path.is_dir() and (path / "adapter_config.json").is_file():
        kind = "a LoRA"
    elif path.is_dir() and (path / "config.yaml").is_file() and (path / "checkpoints").is_dir():
        kind = "a run"
    elif path.suffix == ".safetensors" and path.is_file():
        names = tensor_names(path)
        kind = "a LoRA" if names and all(_LORA.search(name) for name in names) else None
    if kind is not None:
        raise VaderError(f"weights {text!r}: it is {kind}, not a model: give it as --lora {text}")


def fetch(
    wanted: WeightFile,
    *,
    needed_for: str,
    option: str = "--weights PATH",
    progress: Progress | None = None,
) -> Path:
    """The local path of a hub file, or of a repository's snapshot; what is missing is downloaded.

    Args:
        wanted: What to fetch.
        needed_for: What asks, e.g. ``reward 'hps'``; begins the message.
        option: The option that names a local file instead; ends the message.
        progress: Told how far a download is.

    Raises:
        VaderError: Offline and not here, gated, or not found: names repository, file, token setting and
            ``option``; or the hub's answer is none that is followed.
        MachineError: It cannot be kept.
    """
    from huggingface_hub.errors import GatedRepoError

    from vader_core.hub import fetched

    try:
        path = fetched(wanted, progress)
    except VaderError as error:
        raise type(error)(f"{needed_for}: {error}") from error
    except GatedRepoError as error:
        raise VaderError(
            f"{needed_for}: {describe(wanted)} is gated: accept its licence on the hub and set HF_TOKEN, or "
            f"give {option}"
        ) from error
    except Exception as error:  # the hub's client, and what it is built on, have errors of many kinds
        raise VaderError(
            f"{needed_for}: {describe(wanted)} is not here and could not be downloaded "
            f"({type(error).__name__}): "
            f"go online (HF_TOKEN is sent where it is set), or give {option}"
        ) from error
    if wanted.file:
        check_sha256(path, wanted.sha256)
    return path


def describe(wanted: WeightFile) -> str:
    """``repository``, file and revision in words."""
    file = f", file {wanted.file}" if wanted.file else ""
    revision = f", revision {wanted.revision}" if wanted.revision else ""
    return f"hub repository {wanted.repository}{file}{revision}"


def locate(
    source: WeightSource, pretrained: WeightFile, *, needed_for: str, option: str = "--weights PATH"
) -> Path:
    """The local path that a ``pretrained``, ``path`` or ``hub`` source means (``random`` has none).

    Args:
        source: From :func:`parse_weights`.
        pretrained: What ``pretrained`` stands for, and the file looked for in a ``hub`` source without one.
        needed_for: What asks, for messages.
        option: The option that names a local file, for messages.
    """
    if source.kind == "path" and source.path is not None:
        return source.path
    if source.kind == "hub":
        file = source.file or pretrained.file
        pretrained = WeightFile(source.repository, file, source.revision)
    elif source.kind != "pretrained":
        raise VaderError(f"{needed_for}: weights {source.kind!r} have no file")
    return fetch(pretrained, needed_for=needed_for, option=option)


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write safetensors beside ``path`` and rename the file into place."""
    from safetensors.torch import save_file

    with replacing(path) as beside:
        save_file({name: value.contiguous() for name, value in tensors.items()}, beside, dict(metadata or {}))


def write_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write what the ending of ``path`` says: safetensors, or a torch file for .pt, .pth, .bin and .ckpt.

    Raises:
        VaderError: Another ending.
    """
    if path.suffix == ".safetensors":
        save_tensors(tensors, path, metadata)
        return
    if path.suffix not in (".pt", ".pth", ".bin", ".ckpt"):
        raise VaderError(
            f"{path}: the ending says what is written: .safetensors, or .pt, .pth, .bin or .ckpt for a torch "
            "file"
        )
    import torch

    with replacing(path) as beside:
        torch.save({name: value.contiguous() for name, value in tensors.items()}, beside)


def load_exactly(module: nn.Module, tensors: Mapping[str, Tensor], *, what: str) -> None:
    """Load ``tensors`` into ``module``: every key must be there, none may be left over, every shape must fit.

    Raises:
        VaderError: Listing what is missing, unexpected or of another shape, or naming a tensor that holds
            NaN or an infinity.
    """
    from vader_core.wrappings import refuse_not_finite

    wanted = module.state_dict()
    missing = sorted(wanted.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - wanted.keys())
    misfits = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & tensors.keys())
        if tensors[name].shape != wanted[name].shape
    ]
    if missing or unexpected or misfits:
        raise VaderError(misfit_message(what, missing, unexpected, misfits))
    refuse_not_finite(tensors, what=what)
    module.load_state_dict(dict(tensors), strict=True, assign=False)


def misfit_message(what: str, missing: list[str], unexpected: list[str], misfits: list[str]) -> str:
    """One message for weights that do not fit: counts, then the first three names of each kind."""
    parts = [f"{what}: {len(missing)} missing, {len(unexpected)} unexpected, {len(misfits)} of another shape"]
    for label, names in (("missing", missing), ("unexpected", unexpected), ("shape", misfits)):
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            parts.append(f"{label}: {shown}")
    if unexpected and all(_LORA.search(name) for name in unexpected):
        parts.append("these are the tensors of a LoRA: give the file as --lora")
    if len(misfits) > len(missing) + len(unexpected) and len(misfits) > 3:
        parts.append("the names fit and the sizes do not: it is of another architecture of the same model")
    return "; ".join(parts)


def with_random_weights(model: type[BaseModel], options: Mapping[str, Any]) -> dict[str, Any]:
    """A component's options with random weights in place of whatever they were; its sizes stay.

    Args:
        model: Of the options; ``weights`` is replaced, and every ``…_weights`` that was given.
        options: As the user gave them.
    """
    found = dict(options)
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found[name] = with_random_weights(inner, found.get(name, {}))
        elif name == "weights":
            _keep_architecture(model, found)
            found[name] = "random"
        elif name.endswith("_weights") and found.get(name) is not None:
            found[name] = "random"
    return found


def _keep_architecture(model: type[BaseModel], options: dict[str, Any]) -> None:
    """Where the weights' own folder would settle the sizes, name it."""
    field = model.model_fields.get("architecture")
    given = options.get("weights")
    if field is None or field.default is not None or options.get("architecture") is not None or given is None:
        return
    folder = entered(str(given))
    if any(folder.glob("*/config.json")):
        options["architecture"] = str(folder)
