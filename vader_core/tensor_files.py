"""Files of tensors: recognised by content, read without running anything, refused in one message.

The name of a file decides nothing. A git-lfs pointer, a saved web page or one shard of several is said to be
what it is.
"""

from __future__ import annotations

import json
import re
import stat
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vader_core.errors import VaderError

#: How the names of files with weights end.
ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
#: The longest header of a safetensors file that is read: a hundred thousand tensors need no more, and what is
#: longer would take gigabytes once it is parsed.
_LONGEST_HEADER = 1 << 24
#: Torch stores tensors uncompressed; compressed parts of a file may unpack to no more than this.
_MOST_COMPRESSED = 64 << 20
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.")
_GLOBAL = re.compile(r"(?:Unsupported (?:global|class)|GLOBAL)[:\s]+(?:GLOBAL )?([\w.]+)")
#: Place and bytes -> what other files are.
_OTHERS = {
    (0, b"GGUF"): "a GGUF file (llama.cpp); take the safetensors file instead",
    (0, b"\x89HDF"): "an HDF5 file (Keras); take the safetensors file instead",
    (0, b"\x93NUM"): "a NumPy file; save the tensors as safetensors",
    (0, b"\x1f\x8b"): "a gzip archive; unpack it",
    (0, b"BZh"): "a bzip2 archive; unpack it",
    (0, b"7z\xbc\xaf"): "a 7z archive; unpack it",
    (0, b"Rar!"): "a RAR archive; unpack it",
    (0, b"\x89PNG"): "a picture",
    (0, b"\xff\xd8\xff"): "a picture",
    (257, b"ustar"): "a tar archive; unpack it",
    (0, bytes(64)): "nothing but zero bytes, as a download that was cut off leaves: download the file again",
}


def load_tensors(path: Path, *, needed_for: str = "weights") -> dict[str, Any]:
    """Read a safetensors or a torch file, or a folder of shards; nothing in it is run.

    Args:
        path: A file, by its content; an index of shards; or a folder that holds one, or one file of tensors.
        needed_for: What asks, e.g. ``reward 'hps'``; begins the messages.

    Returns:
        For safetensors a flat dict of tensors, for shards all of them; for a torch file whatever plain
        containers of tensors it holds (``{"": value}`` where that is no dict).

    Raises:
        VaderError: Unreadable, something else than weights, one shard of several, or a pickle that asks for
            anything but tensors, which is named.
    """
    if path.is_dir():
        return _load_folder(path, needed_for)
    if path.name.endswith(".index.json") and path.is_file():
        return _load_shards(path, needed_for)
    shard = _SHARD.search(path.name)
    if shard and int(shard[2]) > 1 and path.is_file():
        raise VaderError(
            f"{needed_for}: {path} is one of {int(shard[2])} shards; give the folder with all of them and "
            "their index"
        )
    return _load_file(path, needed_for)


def tensor_names(path: Path) -> dict[str, tuple[int, ...]]:
    """The tensors' names and shapes of a file, without their numbers; empty where it is no file of tensors.

    Of a torch file those of its outermost dict.
    """
    try:
        if kind_of(path) == "safetensors":
            return {
                name: tuple(facts["shape"])
                for name, facts in _header(path, "weights").items()
                if name != "__metadata__"
            }
        found = _load_torch(path, "weights", device="meta")
    except VaderError:
        return {}
    return {
        name: tuple(getattr(value, "shape", ())) for name, value in found.items() if isinstance(name, str)
    }


def notes_of(path: Path) -> dict[str, str]:
    """The text entries in the header of a safetensors file; empty for any other file."""
    try:
        found = _header(path, "weights").get("__metadata__") if kind_of(path) == "safetensors" else None
    except VaderError:
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def kind_of(path: Path, *, needed_for: str = "weights") -> str:
    """``safetensors`` or ``torch``, from the first bytes.

    Raises:
        VaderError: Anything else, said to be what it is.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise VaderError(f"{needed_for}: {path} is not a file")
        with path.open("rb") as stream:
            start = stream.read(512)
    except (OSError, ValueError) as error:
        if not isinstance(error, PermissionError):
            raise VaderError(f"{needed_for}: {path} is not a file") from error
        raise VaderError(f"{needed_for}: {path} cannot be read: {error.strerror}") from error
    # safetensors first: the length of its header may begin with a pickle's or an archive's bytes
    if len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= status.st_size:
        return "safetensors"
    if start.startswith(b"PK") or start[:1] == b"\x80":
        return "torch"
    raise VaderError(f"{needed_for}: {path} holds no weights: it is {_described(start)}")


def in_brackets(path: Path) -> str:
    """What is no weights is said to be, for the end of a message about it; empty for weights.

    >>> in_brackets(Path("/nowhere"))
    ''
    """
    try:
        if path.is_dir():
            return _of_training(path)
        if path.is_file():
            kind_of(path)
    except VaderError as error:
        said = str(error).partition("it is ")[2]
        return f" (it is {said})" if said else ""
    return ""


def _of_training(folder: Path) -> str:
    """What training code left in a folder, where its weights are to be gathered first."""
    if any(folder.glob("*.distcp")):
        return (
            " (it is a sharded checkpoint of torch.distributed, as FSDP writes it: gather it with "
            "`python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE`)"
        )
    if any(folder.glob("*_optim_states.pt")) or (folder / "zero_to_fp32.py").is_file():
        return " (it is a checkpoint of DeepSpeed: gather it with the zero_to_fp32.py in it or above it)"
    return ""


def _described(start: bytes) -> str:
    words = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if words.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the file itself: fetch that with `git lfs pull`, or from the hub"
    if words.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page (a sign-in or error page, perhaps): download the file again, signed in"
    if not start:
        return "empty: download the file again"
    for (place, magic), words_for in _OTHERS.items():
        if start.startswith(magic, place):
            return words_for
    if words[:1] in b"{[" and b"\0" not in start:
        return "JSON text; give the weights that belong to it"
    if len(start) > 8 and start[8:9] == b"{":
        return "a safetensors file that was cut off: download it again"
    if b"\0" not in start and start.isascii():
        return "text, neither safetensors nor a torch file"
    return "neither a safetensors nor a torch file"


def _header(path: Path, needed_for: str) -> dict[str, Any]:
    try:
        length = _header_length(path)
        with path.open("rb") as stream:
            stream.seek(8)
            found = json.loads(stream.read(length))
        if not isinstance(found, dict) or not all(isinstance(facts, dict) for facts in found.values()):
            raise ValueError("its header is no table of tensors")
        if not all(_has_shape(facts) for name, facts in found.items() if name != "__metadata__"):
            raise ValueError("its header is no table of tensors")
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise VaderError(f"{needed_for}: {path} is not a readable safetensors file: {error}") from error
    return found


def _header_length(path: Path) -> int:
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
    if not 0 < length <= _LONGEST_HEADER:
        raise ValueError(f"its header is said to be {length:,} bytes long")
    return length


def _has_shape(facts: Mapping[str, Any]) -> bool:
    shape = facts.get("shape")
    return isinstance(shape, list) and all(isinstance(size, int) and size >= 0 for size in shape)


def _load_file(path: Path, needed_for: str) -> dict[str, Any]:
    if kind_of(path, needed_for=needed_for) == "torch":
        return _load_torch(path, needed_for)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        _header_length(path)
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, MemoryError) as error:
        raise VaderError(f"{needed_for}: {path} is not a readable safetensors file: {error}") from error


def _load_torch(path: Path, needed_for: str, *, device: str = "cpu") -> dict[str, Any]:
    import pickle

    import torch

    _refuse_compressed(path, needed_for)
    _refuse_scripted(path, needed_for)
    try:
        # an open file: by a path, torch goes by the name's ending
        with warnings.catch_warnings(), path.open("rb") as stream:
            warnings.simplefilter("ignore")
            loaded = torch.load(stream, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        found = _GLOBAL.search(str(error))
        named = f" ({found[1]})" if found else ""
        if found is None and "global" not in str(error).lower():
            raise VaderError(
                f"{needed_for}: {path} is not a readable torch file: its pickle is damaged, or of another "
                "program"
            ) from error
        raise VaderError(
            f"{needed_for}: {path} was refused: it holds more than tensors{named} and reading it could run "
            "code; convert it to safetensors where you trust it"
        ) from error
    except Exception as error:  # torch's reader raises anything on damaged bytes, MemoryError among them
        detail = (str(error).splitlines() or [type(error).__name__])[0]
        raise VaderError(f"{needed_for}: {path} is not a readable torch file: {detail[:200]}") from error
    if not isinstance(loaded, Mapping):
        loaded = {"": loaded}
    if device == "cpu":
        _refuse_inflated(loaded, path, needed_for)
    return dict(loaded)


def _refuse_compressed(path: Path, needed_for: str) -> None:
    """Torch stores its parts as they are; a compressed one would be unpacked into memory without bound."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, RecursionError, NotImplementedError) as error:
        raise VaderError(f"{needed_for}: {path} is not a readable torch file: {error}") from error
    packed = sum(part.file_size for part in parts if part.compress_type != zipfile.ZIP_STORED)
    if packed > _MOST_COMPRESSED or sum(part.file_size for part in parts) - packed > path.stat().st_size:
        raise VaderError(
            f"{needed_for}: {path} was refused: it is a compressed archive that unpacks to "
            f"{sum(part.file_size for part in parts):,} bytes, which no program writes as weights"
        )


def _refuse_scripted(path: Path, needed_for: str) -> None:
    """A program of TorchScript has a folder of code beside its tensors."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any("/code/" in name for name in names):
        raise VaderError(
            f"{needed_for}: {path} was refused: it is a TorchScript program, not weights; save the module's "
            "state_dict() as safetensors where you trust it"
        )


def _refuse_inflated(loaded: Mapping[Any, Any], path: Path, needed_for: str) -> None:
    """A tensor that claims more numbers than its storage holds would fill the memory once it is used."""
    import torch

    waiting: list[Any] = [loaded]
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            if value.is_meta:
                raise VaderError(
                    f"{needed_for}: {path} holds no numbers: its tensors are on the meta device, as a model "
                    "that was never loaded is saved; save it once its weights are there"
                )
            if value.layout is torch.strided and not value.is_quantized:
                held = value.untyped_storage().nbytes()
                if value.numel() * value.element_size() > max(held, 1 << 20):
                    raise VaderError(
                        f"{needed_for}: {path} was refused: a tensor of {tuple(value.shape)} has only "
                        f"{held:,} bytes in the file"
                    )
        elif isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value


# -- shards --------------------------------------------------------------------------------------------------


def _load_folder(folder: Path, needed_for: str) -> dict[str, Any]:
    try:
        indices = sorted(folder.glob("*.index.json"))
    except OSError as error:
        raise VaderError(f"{needed_for}: {folder} cannot be read: {error.strerror}") from error
    if indices:
        preferred = [index for index in indices if ".safetensors." in index.name] or indices
        return _load_shards(preferred[0], needed_for)
    files = [path for path in sorted(folder.iterdir()) if path.suffix in ENDINGS and path.name[0] != "."]
    if len(files) == 1:
        return load_tensors(files[0], needed_for=needed_for)
    shown = ", ".join(path.name for path in files[:6]) or "nothing"
    raise VaderError(
        f"{needed_for}: {folder} is a folder with no index of shards (*.index.json) and not exactly one file "
        f"of tensors ({shown}); name the file itself"
    )


def _load_shards(index: Path, needed_for: str) -> dict[str, Any]:
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = {str(name): str(file) for name, file in places.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise VaderError(f"{needed_for}: {index} is not a readable index of shards: {error}") from error
    if not names:
        raise VaderError(f"{needed_for}: {index} names no shards")
    tensors: dict[str, Any] = {}
    for file in dict.fromkeys(names.values()):
        path = index.parent / file
        if Path(file).name != file:
            raise VaderError(f"{needed_for}: {index} names a shard outside its folder: {file[:120]}")
        if not _is_there(path):
            raise VaderError(
                f"{needed_for}: {index} names the shard {file[:120]}, which is not in {index.parent}"
            )
        tensors.update(_load_file(path, needed_for))
    missing = sorted(names.keys() - tensors.keys())
    if missing:
        raise VaderError(f"{needed_for}: {missing[0]} is in none of the shards that {index} names")
    return tensors


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False
