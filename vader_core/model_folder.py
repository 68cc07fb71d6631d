"""Folders and repositories in transformers' layout: no code of theirs runs, what fails is one message."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from vader_core.errors import MissingDependencyError, VaderError

#: Without one of them transformers makes a tokenizer that knows no word, silently.
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")


def from_folder(kind: Any, where: str | Path, *, what: str, **given: Any) -> Any:
    """``kind.from_pretrained(where)``, where a stranger may have made what is there.

    Args:
        kind: A class of transformers.
        where: A folder, or a repository of the hub.
        what: What asks; begins the message.
        **given: For ``from_pretrained``.

    Raises:
        VaderError: It asks for code of its own to be run, or cannot be read as what ``kind`` reads.
    """
    folder = Path(where)
    if folder.is_dir():
        odd = next((path for path in sorted(folder.iterdir()) if not (path.is_file() or path.is_dir())), None)
        if odd is not None:
            raise VaderError(f"{what}: {odd} is neither a file nor a folder")
        if "Tokenizer" in kind.__name__ and not any((folder / name).is_file() for name in _VOCABULARIES):
            raise VaderError(
                f"{what}: {where} cannot be read: it holds no vocabulary ({', '.join(_VOCABULARIES)})"
            )
    if kind.__name__.startswith("Auto"):  # else it would ask on standard input, and take a y for leave
        given["trust_remote_code"] = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return kind.from_pretrained(where, **given)
    except ImportError as error:
        package = getattr(error, "name", None) or (str(error).splitlines() or ["?"])[0]
        raise MissingDependencyError(str(package), what, f"pip install {package}") from error
    except Exception as error:  # transformers raises anything on files that are not what their names say
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        if any("trust_remote_code" in line for line in lines):
            raise VaderError(
                f"{what}: {where} asks for code of its own to be run, which is never done; give a model of a "
                "kind that transformers knows"
            ) from error
        first = (lines or ["it says nothing more"])[0][:300]
        raise VaderError(f"{what}: {where} cannot be read: {type(error).__name__}: {first}") from error
