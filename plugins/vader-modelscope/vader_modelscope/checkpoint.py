"""The published checkpoint's files and key names, and ours.

The layout is diffusers': a folder per network, each with its `config.json`. The U-Net's names are those of
today's class. The autoencoder's attention may carry the names of early diffusers; the text encoder's names
may begin with `text_model.`, which transformers 5 no longer keeps in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vader_core.errors import VaderError
from vader_core.nn.diffusers_names import modern_attention_names
from vader_core.weights import WeightFile, WeightSource, fetch, in_brackets, load_tensors
from vader_core.wrappings import unwrapped
from vader_modelscope.architecture import Architecture, Part, read_json

if TYPE_CHECKING:
    from torch import Tensor

_NEEDED_FOR = "backbone 'modelscope'"

#: The hub repository, and the name that it moved to for some users.
REPOSITORIES = ("damo-vilab/text-to-video-ms-1.7b", "ali-vilab/text-to-video-ms-1.7b")

PRETRAINED = WeightFile(
    REPOSITORIES[0],
    numbers=1_411_233_860 + 340_387_840 + 83_653_863,  # U-Net, text encoder, autoencoder
    licence="cc-by-nc-4.0",
    note=f"diffusers' layout; also found as {REPOSITORIES[1]}",
)

_STEMS: dict[Part, str] = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
_OLD_STEMS: dict[Part, str] = {**_STEMS, "text_encoder": "pytorch_model"}

TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")
SCHEDULER_FILE = "scheduler/scheduler_config.json"

#: What the scheduler's file must say; `vader_modelscope.backbone` and the samplers are built on these
#: numbers.
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
}


class CheckpointFiles:
    """The files of a checkpoint: in a local folder, or fetched from the hub one by one as they are asked for.

    Args:
        source: Where the weights come from; anything but `random`.

    Raises:
        VaderError: A file instead of a folder.
    """

    def __init__(self, source: WeightSource) -> None:
        self._folder = source.path
        self._repositories = (source.repository,) if source.kind == "hub" else REPOSITORIES
        self._revision = source.revision if source.kind == "hub" else PRETRAINED.revision
        if source.file or (self._folder is not None and not self._folder.is_dir()):
            raise VaderError(
                f"{_NEEDED_FOR}: weights must be a folder in diffusers' layout or a whole hub repository "
                f"(hub:OWNER/NAME), not the single file {source.file or self._folder}"
                f"{in_brackets(self._folder or Path())}"
            )

    def find(self, *names: str) -> Path:
        """The first of ``names`` (paths in the layout) that exists.

        Raises:
            VaderError: None does.
        """
        if self._folder is not None:
            for name in names:
                if (self._folder / name).is_file():
                    return self._folder / name
            raise VaderError(f"{_NEEDED_FOR}: {self._folder} has no {' and no '.join(names)}")
        return self._download(names)

    def _download(self, names: tuple[str, ...]) -> Path:
        refused: VaderError | None = None
        for repository in self._repositories:
            for name in names:
                wanted = replace(PRETRAINED, repository=repository, file=name, revision=self._revision)
                try:
                    found = fetch(wanted, needed_for=_NEEDED_FOR, option="--weights FOLDER")
                except VaderError as error:
                    refused = refused or error
                    continue
                self._repositories = (repository,)
                return found
        raise refused or VaderError(f"{_NEEDED_FOR}: no file was asked for")

    def find_all(self, folder: str, names: tuple[str, ...], *, optional: tuple[str, ...] = ()) -> Path:
        """The local folder that holds every file of ``names``; those of ``optional`` may be missing."""
        place: Path | None = None
        for name in names:
            try:
                place = self.find(f"{folder}/{name}").parent
            except VaderError:
                if name not in optional:
                    raise
        if place is None:
            raise VaderError(f"{_NEEDED_FOR}: no file of {folder} was found")
        return place

    def weights(self, part: Part) -> Path:
        """The weights of one network, safetensors before torch files."""
        stems = dict.fromkeys((_STEMS[part], _OLD_STEMS[part]))
        return self.find(*(f"{part}/{stem}{ending}" for ending in (".safetensors", ".bin") for stem in stems))


def check_configuration(files: CheckpointFiles, architecture: Architecture) -> None:
    """Refuse a checkpoint whose own configuration is not what was built.

    Raises:
        VaderError: A parameter of a network or of the noise schedule differs; names the first.
    """
    for part in ("unet", "vae", "text_encoder"):
        stated = read_json(files.find(f"{part}/config.json"))
        built = architecture.part(part)
        for name, value in built.items():
            if name in stated and _plain(stated[name]) != _plain(value) and name != "sample_size":
                raise VaderError(
                    f"{_NEEDED_FOR}: {part}/config.json says {name}={stated[name]!r}, but {value!r} was "
                    "built: give -o backbone.architecture=FOLDER with the folder that holds this checkpoint"
                )
    scheduler = read_json(files.find(SCHEDULER_FILE))
    for name, value in SCHEDULE.items():
        if name in scheduler and scheduler[name] != value:
            raise VaderError(
                f"{_NEEDED_FOR}: {SCHEDULER_FILE} says {name}={scheduler[name]!r}; "
                f"only {value!r} is supported"
            )


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def read_part(files: CheckpointFiles, part: Part, wanted: Mapping[str, object]) -> dict[str, Tensor]:
    """The tensors of one network under the names of today's classes.

    Args:
        files: The checkpoint.
        part: Which network.
        wanted: The names that the built network has.
    """
    path = files.weights(part)
    tensors = unwrapped(load_tensors(path, needed_for=_NEEDED_FOR), what=f"{_NEEDED_FOR}: {path}")
    if part == "vae":
        return modern_attention_names(tensors)
    if part == "text_encoder":
        return text_encoder_names(tensors, wanted)
    return tensors


def text_encoder_names(tensors: Mapping[str, Tensor], wanted: Mapping[str, object]) -> dict[str, Tensor]:
    """A text encoder's tensors, with or without `text_model.` in front as ``wanted`` has it.

    `position_ids`, a counter that early files carry, is left out where the network does not keep it.
    """
    prefix = "text_model."
    prefixed = any(name.startswith(prefix) for name in wanted)
    renamed: dict[str, Tensor] = {}
    for name, value in tensors.items():
        bare = name.removeprefix(prefix)
        ours = f"{prefix}{bare}" if prefixed else bare
        if bare != "embeddings.position_ids" or ours in wanted:
            renamed[ours] = value
    return renamed
