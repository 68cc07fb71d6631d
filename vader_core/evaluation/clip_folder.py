"""A folder of sampled clips: each is written when it is done, and says how it is made again."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from vader_core import __version__
from vader_core.assembly.parts import Assembly
from vader_core.clip_forms import FORMS, checked_forms, convert
from vader_core.errors import VaderError
from vader_core.evaluation.validation import Pair
from vader_core.files import replacing, sweep_unfinished
from vader_core.pictures import small_copy
from vader_core.run.batch import LISTED
from vader_core.video import write_video

Entry = dict[str, Any]

#: A prompt takes at most so many characters of a clip's name.
_LONGEST = 48


class ClipFolder:
    """Clips with ``prompts.json``, which lists for each its prompt, seed, settings, scores and command.

    Args:
        folder: Where the clips go.
        settings: What all of them depend on beside prompt and seed.
        overwrite: Replace the clips of other settings.
        forms: Of :data:`~vader_core.clip_forms.FORMS`: each clip lies beside its mp4 in these too.

    Raises:
        VaderError: Something else lies there, clips of other settings, or no such form.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        *,
        overwrite: bool = False,
        forms: Sequence[str] = (),
    ) -> None:
        self.folder, self.settings, self.forms = folder, dict(settings), checked_forms(forms)
        self.entries: dict[str, Entry] = {}
        if folder.is_dir():
            sweep_unfinished(folder)
        if not folder.exists() or not any(folder.iterdir()):
            return
        found = self._listed()
        if found is None and not overwrite:
            raise VaderError(f"--out {folder} exists and is not empty: choose another, or give --overwrite")
        other = [
            entry
            for entry in found or ()
            if entry["settings"] != _settings_of_clip(self.settings, base=bool(entry.get("base")))
        ]
        if other and not overwrite:
            raise VaderError(
                f"--out {folder} holds clips of other settings ({_difference(other[0], self.settings)}): "
                "choose another, or give --overwrite"
            )
        if other or overwrite:
            for entry in found or ():
                for form in ("mp4", *FORMS):
                    (folder / entry["file"]).with_suffix(f".{form}").unlink(missing_ok=True)
            return
        self.entries = {e["file"]: e for e in found or () if (folder / e["file"]).is_file()}

    def has(self, entry: Entry, rewards: Sequence[str]) -> bool:
        """Whether this clip lies there already, with a score of each of ``rewards``."""
        held = self.entries.get(entry["file"])
        asked = {key: entry[key] for key in ("prompt", "negative", "image", "seed", "base")}
        return (
            held is not None
            and all(held.get(key) == value for key, value in asked.items())
            and set(rewards) <= set(held["scores"])
        )

    def add(self, entry: Entry, video: Tensor, fps: float) -> None:
        """Write a clip [F, 3, H, W] and list it; the mp4's own tags say the same.

        The list is there before the first clip, so that whatever ends the process, the same command goes on.
        """
        if not self.entries:
            self._list()
        tags = {"title": entry["prompt"], "comment": json.dumps(entry, ensure_ascii=False)}
        if entry["image"] is not None:
            entry["picture"] = small_copy(Path(entry["image"]), self.folder)
        path = self.folder / entry["file"]
        write_video(video, path, fps, tags)
        for form in self.forms:
            convert(path, path.with_suffix(f".{form}"))
        self.entries[entry["file"]] = entry
        self._list()

    def _list(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        listed = [self.entries[name] for name in sorted(self.entries)]
        with replacing(self.folder / LISTED) as beside:
            beside.write_text(json.dumps(listed, indent=1, ensure_ascii=False), encoding="utf-8")

    def complete(self) -> None:
        """Give the clips that were there already the forms that they lack."""
        for path in (self.folder / name for name in self.entries):
            for target in (path.with_suffix(f".{form}") for form in self.forms):
                if not target.is_file():
                    convert(path, target)

    def _listed(self) -> list[Entry] | None:
        """What ``prompts.json`` says; ``None`` where it is not of this kind."""
        try:
            found = json.loads((self.folder / LISTED).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        wanted = {"file", "prompt", "seed", "scores", "settings"}
        ours = isinstance(found, list) and all(
            isinstance(one, dict) and wanted <= one.keys() for one in found
        )
        names = ours and all(Path(str(one["file"])).name == one["file"] for one in found)
        return found if names else None


def clip_entry(pair: Pair, position: int, settings: Mapping[str, Any], *, base: bool = False) -> Entry:
    """What is known of a clip before it is made.

    Args:
        pair: Prompt and seed.
        position: Of the prompt, in the order of the batch.
        settings: From :func:`clip_settings`.
        base: The model before tuning makes it.
    """
    prompt = pair.prompt
    twin = "-base" if base else ""
    entry: Entry = {
        "file": f"{position:02d}-{file_words(prompt.text)}seed{pair.seed}{twin}.mp4",
        "prompt": prompt.text,
        "negative": prompt.negative,
        "image": None if prompt.image is None else str(prompt.image),
        "seed": pair.seed,
        "base": base,
        "scores": {},
        "settings": _settings_of_clip(settings, base=base),
    }
    return entry | {"command": command_of(entry)}


def _settings_of_clip(settings: Mapping[str, Any], *, base: bool) -> dict[str, Any]:
    """What made one clip: of the model before tuning, the first adapter at 0 and none beside it."""
    if not (base and settings["lora"]):
        return dict(settings)
    return {**settings, "lora": settings["lora"][:1], "lora_scale": 0.0}


def file_words(prompt: str) -> str:
    """A prompt as part of a file's name: plain letters, digits and hyphens, with one at the end.

    >>> file_words("Ein Bär, tanzend!"), file_words("../../etc"), file_words("…"), file_words("a\u2028b")
    ('ein-bar-tanzend-', 'etc-', '', 'a-b-')
    """
    plain = unicodedata.normalize("NFKD", " ".join(prompt.split())).encode("ascii", "ignore").decode().lower()
    words = re.sub("[^a-z0-9]+", "-", plain).strip("-")[:_LONGEST].strip("-")
    return f"{words}-" if words else ""


def clip_settings(assembly: Assembly, loras: Sequence[str], lora_scale: float) -> dict[str, Any]:
    """Everything that the clips depend on beside prompt and seed, in the words of the run's YAML."""
    tree = assembly.config.model_dump(mode="json")
    return {
        "backbone": tree["backbone"],
        "video": tree["video"],
        "sampler": tree["sampler"],
        "lora": list(loras),
        "lora_scale": lora_scale,
        "precision": tree["trainer"]["precision"],
        "device": assembly.device.type,
        "vader": __version__,
    }


def command_of(entry: Entry) -> list[str]:
    """The command line that makes a clip again."""
    settings = entry["settings"]
    words = ["vader", "sample", *_component("backbone", settings["backbone"], {"weights": "--weights"})]
    for name in ("height", "width", "num_frames", "fps"):
        words += [f"--{name.replace('_', '-')}", _told(settings["video"][name])]
    flags = {"num_steps": "--num-steps", "guidance_scale": "--guidance-scale"}
    words += _component("sampler", settings["sampler"], flags)
    for lora in settings["lora"]:
        words += ["--lora", lora]
    if settings["lora"]:
        words += ["--lora-scale", _told(settings["lora_scale"])]
    words += ["--precision", settings["precision"], "--device", settings["device"]]
    words += ["--prompts", f"text:{entry['prompt']}"] if entry["prompt"] else []
    if entry["negative"] is not None:
        words += ["--negative-prompt", entry["negative"]]
    if entry["image"] is not None:
        words += ["-o", f"prompts.image={entry['image']}"]
    return [*words, "--seed", str(entry["seed"])]


def _component(section: str, tree: Mapping[str, Any], flags: Mapping[str, str]) -> list[str]:
    """A component's name and options as flags, and as ``-o`` where there is none."""
    words = [f"--{section}", str(tree["name"])]
    for name, value in tree.items():
        if name in ("name", "split_guidance") or value is None:
            continue
        if name in flags:
            words += [flags[name], _told(value)]
        else:
            words += ["-o", f"{section}.{name}={_told(value)}"]
    return words


def _told(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return json.dumps(value) if isinstance(value, list | dict | bool) else str(value)


def _difference(entry: Entry, settings: Mapping[str, Any]) -> str:
    held = entry["settings"]
    names = [name for name in settings if held.get(name) != settings[name]]
    return ", ".join(f"{name}: {held.get(name)}, now {settings[name]}" for name in names[:2])
