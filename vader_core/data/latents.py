"""Clips that were encoded beforehand: latents in safetensors shards, and an index that says of what."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vader_core.data.buckets import Bucket
from vader_core.errors import MachineError, VaderError
from vader_core.files import replacing, sha256_of
from vader_core.prompts import Clip, Prompt, PromptSource, Shape, shuffled_index

INDEX = "index.json"
#: Encoded captions lie here.
TEXT = "text"
#: A clip's first frame lies under its name and this.
_FIRST = ".first"
#: A shard is closed at so many bytes.
_SHARD_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Entry:
    """One encoded clip.

    Args:
        key: Names its content, the model and the transform; also its tensor in the shard.
        shard: File beside the index.
        text: Its caption.
        source: The file that it came from.
        held_out: Whether it is kept for validation.
        bucket: Resolution, frames and ratio of its bucket; ``None`` where it has the run's own size.
    """

    key: str
    shard: str
    text: str
    source: str
    held_out: bool
    bucket: tuple[str, int, str] | None = None


class LatentWriter:
    """Writes shards and, after each, the index; what an earlier run encoded stays.

    Args:
        folder: The cache.
        identity: The model and the transform, as JSON.

    Raises:
        VaderError: The folder holds a cache of another model or transform.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder, self.identity = folder, dict(identity)
        self._entries: dict[str, Entry] = {}
        if (folder / INDEX).is_file():
            found, entries = read_index(folder)
            check_identity(folder, found, identity)
            self._entries = {entry.key: entry for entry in entries}
        self._waiting: dict[str, Tensor] = {}
        self._named: dict[str, Entry] = {}

    def key(self, prompt: Prompt, window: int) -> str:
        """Names a clip by its content, its place in the file, its caption, the model and the transform."""
        clip = prompt.video
        assert clip is not None
        if clip.pixels is None:
            content = sha256_of(clip.path)
        else:
            content = hashlib.sha256(clip.pixels.numpy().tobytes()).hexdigest()
        words = [content, prompt.text, clip.start, clip.end, window, self.identity]
        return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()[:32]

    def __contains__(self, key: str) -> bool:
        return key in self._entries or key in self._named

    def add(
        self,
        key: str,
        latents: Tensor,
        prompt: Prompt,
        *,
        held_out: bool,
        bucket: Bucket | None = None,
        first: Tensor | None = None,
    ) -> None:
        """Keep one clip.

        Args:
            key: From :meth:`key`.
            latents: [C, T, h, w].
            prompt: Its caption and file.
            held_out: Whether it is kept for validation.
            bucket: What it was cut to; ``None`` for the run's own size.
            first: Its first frame [3, H, W] in [0, 1], for a model that starts from a picture.
        """
        assert prompt.video is not None
        self._waiting[key] = latents.detach().float().cpu().contiguous()
        if first is not None:
            self._waiting[key + _FIRST] = (first.clamp(0, 1) * 255).round().byte().cpu().contiguous()
        place = None if bucket is None else (bucket.resolution, bucket.frames, bucket.ratio)
        self._named[key] = Entry(key, "", prompt.text, str(prompt.video.path), held_out, place)
        if sum(tensor.nbytes for tensor in self._waiting.values()) >= _SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what waits as a shard, then the index.

        Raises:
            MachineError: They cannot be written.
        """
        shard = f"latents-{len(list(self.folder.glob('latents-*.safetensors'))):05d}.safetensors"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._waiting:
                with replacing(self.folder / shard) as beside:
                    save_file(self._waiting, beside)
            for key, entry in self._named.items():
                self._entries[key] = replace(entry, shard=shard)
            entries = [asdict(entry) for entry in self._entries.values()]
            with replacing(self.folder / INDEX) as beside:
                beside.write_text(json.dumps({"identity": self.identity, "entries": entries}, indent=1))
        except OSError as error:
            raise MachineError(f"cannot write the cache {self.folder}: {error}") from error
        self._waiting, self._named = {}, {}

    def __len__(self) -> int:
        return len(self._entries) + len(self._named)


class CachedVideos(PromptSource):
    """Clips whose latents lie in a cache.

    Args:
        folder: The cache.
        identity: What the run's model and transform are.

    Raises:
        VaderError: Not a cache, or one of another model or transform.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        found, entries = read_index(folder)
        check_identity(folder, found, identity)
        size = found["video"]
        self._shape = Shape(size["num_frames"], size["height"], size["width"], size["fps"])
        trained = [entry for entry in entries if not entry.held_out]
        self._clips = [self._prompt(entry) for entry in trained]
        #: Where each training clip belongs; ``None`` for the run's own size.
        self.buckets = [None if entry.bucket is None else Bucket(*entry.bucket) for entry in trained]
        self._held_out = [self._prompt(entry) for entry in entries if entry.held_out]

    def _prompt(self, entry: Entry) -> Prompt:
        return Prompt(entry.text, video=Clip(self.folder / entry.shard, entry=entry.key))

    def draw(self, indices: Sequence[int], seed: int = 0) -> list[Prompt]:
        """The training clips in endless shuffled passes."""
        return [self._clips[shuffled_index(index, len(self._clips), seed)] for index in indices]

    def all(self) -> list[Prompt]:
        """The held-out clips, or every clip where none is."""
        return list(self._held_out or self._clips)

    def held_out_clips(self) -> list[tuple[Prompt, Shape]]:
        """The held-out clips, with the size of each."""
        return [(prompt, self._shape) for prompt in self._held_out]

    def clips(self) -> Sequence[Prompt]:
        """Every training clip."""
        return self._clips

    def shapes(self) -> Sequence[Shape]:
        """What they were brought to."""
        return [self._of(bucket) for bucket in self.buckets]

    def _of(self, bucket: Bucket | None) -> Shape:
        if bucket is None:
            return self._shape
        return Shape(bucket.frames, *bucket.size, self._shape.fps)


def read_latents(clip: Clip) -> tuple[Tensor, Tensor | None]:
    """A clip of a cache: its latents [C, T, h, w], float32, and its first frame where that was kept.

    Raises:
        VaderError: The shard is gone or does not hold them.
    """
    try:
        with safe_open(clip.path, framework="pt") as shard:
            name = f"{clip.entry}{_FIRST}"
            first = shard.get_tensor(name).float() / 255 if name in shard.keys() else None  # noqa: SIM118
            return shard.get_tensor(str(clip.entry)), first
    except (OSError, SafetensorError) as error:
        raise VaderError(f"clip {clip.entry} of {clip.path}: it cannot be read: {error}") from error


def read_index(folder: Path) -> tuple[dict[str, Any], list[Entry]]:
    """The identity of a cache and its entries.

    Raises:
        VaderError: Not a cache.
    """
    try:
        content = json.loads((folder / INDEX).read_text())
        return content["identity"], [Entry(**entry) for entry in content["entries"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VaderError(f"cache:{folder} is no cache of `vader data encode`: {error}") from error


def check_identity(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse a cache of another model or transform.

    Raises:
        VaderError: Naming what differs.
    """
    for name in sorted({*found, *wanted}):
        if found.get(name) != wanted.get(name):
            raise VaderError(
                f"cache:{folder} was encoded with {name} {found.get(name)}, but this run has "
                f"{wanted.get(name)}: encode again into another folder, or train as it was encoded"
            )
