"""``vader lora``."""

from __future__ import annotations

import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vader_core.cli.paths import EnteredPath
from vader_core.errors import VaderError

if TYPE_CHECKING:
    from vader_core.lora.formats import Adapter
    from vader_core.registry import Registry


@click.group("lora")
def command() -> None:
    """Convert LoRA files."""


@command.command("convert")
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT", type=EnteredPath())
@click.option(
    "--to",
    "to",
    required=True,
    metavar="FORMAT",
    help="peft, diffusers, a plugin's own, or comfyui: the run's model's own NAME_comfyui.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT.")
def convert(source: str, target: Path, to: str, overwrite: bool) -> None:
    """Write the LoRA of IN to OUT in another format.

    IN is a run directory, a file or folder of any installed format, or hub:REPO[/FILE]. `vader plugins` lists
    the formats; `peft` is a folder, the others are files.
    """
    from vader_core.registry import load_registry

    click.echo(converted(source, target, to, overwrite=overwrite, registry=load_registry()))


def converted(source: str, target: Path, to: str, *, overwrite: bool, registry: Registry) -> str:
    """Convert, and say in a line what was written.

    Raises:
        VaderError: An unknown format, an unreadable source, a target that exists, or an adapter that the
            format cannot hold.
    """
    from vader_core.lora.compared import check_equal
    from vader_core.run.adapters import find_adapter, lora_format

    to = comfyui_of(source, registry) if to == COMFYUI else to
    written = lora_format(to, registry)
    if target.exists() and not overwrite:  # before anything is read
        raise VaderError(f"{target} exists: choose another OUT, or give --overwrite")
    adapter = find_adapter(source, registry)
    if to == "diffusers":
        _refuse_foreign_names(adapter, source, registry)
    files = written.paths(adapter, target)
    for path in files:
        if path.exists() and not overwrite:
            raise VaderError(f"{path} exists: choose another OUT, or give --overwrite")
    if not target.parent.is_dir():
        raise VaderError(f"{target}: the folder {target.parent} does not exist")
    if adapter.flat:
        raise VaderError(
            f"{source}: kohya's names have no dots, so only a model can say which modules they mean: it can "
            "be used with --lora (and a run of --max-steps 0 that starts from it can be converted), but not "
            "be converted by itself"
        )
    written.write(adapter, target)
    held = written.read(files[0])
    check_equal(adapter, held, what=str(target))
    modules = {name.rpartition(".lora_")[0] for name in adapter.tensors}
    numbers = sum(value.numel() for value in adapter.tensors.values())
    size = f"rank {adapter.rank}, alpha {adapter.alpha:g}, {numbers:,} parameters"
    if held.alpha * adapter.rank != adapter.alpha * held.rank:
        size += (
            f"; the format has alpha {held.alpha:g}, so the file's matrices carry the rest: nothing is lost"
        )
    return f"{', '.join(map(str, files))}: {to}, {len(modules)} modules, {size}"


#: Stands for the format of ComfyUI that a run's model has: ``wan_comfyui`` and so on.
COMFYUI = "comfyui"


def comfyui_of(source: str, registry: Registry) -> str:
    """The ComfyUI format of the model that a run trained.

    Raises:
        VaderError: The source does not say which model it is for, or the model has none.
    """
    from vader_core.run.adapters import find_adapter

    known = sorted(name for name in registry.lora_formats if name.endswith(f"_{COMFYUI}"))
    named = ", ".join(known) or "none is installed"
    backbone = _backbone_of(source)
    if backbone is None:
        raise VaderError(f"--to {COMFYUI}: {source} does not say which model it is for: say it ({named})")
    own = [name for name in known if backbone.startswith(name.removesuffix(f"_{COMFYUI}"))]
    if not own:
        fitting = _formats_for(find_adapter(source, registry), source, registry)
        raise VaderError(
            f"--to {COMFYUI}: there is no such format for the backbone {backbone!r}: use another --to "
            f"({fitting})"
        )
    return max(own, key=len)


def _backbone_of(source: str) -> str | None:
    """The backbone that a run trained; ``None`` where the source is no run."""
    from vader_core.paths import run_of
    from vader_core.run.layers import read_yaml

    run = run_of(source)
    if run is None:
        return None
    return str((read_yaml(run / "config.yaml").get("backbone") or {}).get("name"))


def _formats_for(adapter: Adapter, source: str, registry: Registry) -> str:
    """The formats that hold this adapter: the core's and its model's plugin's, if writing it succeeds."""
    backbone = registry.components["backbone"].get(_backbone_of(source) or "")
    with tempfile.TemporaryDirectory() as place:
        fitting = [
            name
            for name, announced in sorted(registry.lora_formats.items())
            if backbone is None or announced.plugin in ("builtin", backbone.plugin)
            if _holds(name, adapter, registry, Path(place) / name)
        ]
    return ", ".join(fitting)


def _holds(name: str, adapter: Adapter, registry: Registry, place: Path) -> bool:
    """Whether a format writes an adapter, as a file of either kind or a folder, and knows it again."""
    from vader_core.lora.compared import check_equal
    from vader_core.run.adapters import lora_format

    for ending in (".safetensors", ".pt", ""):
        path = place.with_suffix(ending)
        with suppress(Exception):  # the plugin border: whatever it raises, the format does not fit
            format_ = lora_format(name, registry)
            if name == "diffusers" and _foreign_names(adapter):
                return False
            format_.write(adapter, path)
            first = format_.paths(adapter, path)[0]
            check_equal(adapter, format_.read(first), what=name)
            return format_.recognises(first)
    return False


#: Blocks whose names are those of diffusers' own models.
_DIFFUSERS = re.compile(
    r"^(?:transformer_2\.|transformer\.)?(?:(?:down_blocks|up_blocks)\.\d+\.|mid_block\.|transformer_in\.|"
    r"(?:transformer_blocks|temporal_transformer_blocks|single_transformer_blocks)\.\d+\.|"
    r"blocks\.\d+\.(?:attn|ffn)|token_refiner\.|context_embedder\.)"
)


def _foreign_names(adapter: Adapter) -> list[str]:
    """The names that diffusers does not have, where they are most of them; else none."""
    foreign = [name for name in sorted(adapter.tensors) if not _DIFFUSERS.match(name)]
    return foreign if 2 * len(foreign) > len(adapter.tensors) and not adapter.flat else []


def _refuse_foreign_names(adapter: Adapter, source: str, registry: Registry) -> None:
    """Diffusers would load none of what a model with names of its own has trained.

    Raises:
        VaderError: Names the first such module, and the formats that there are.
    """
    if foreign := _foreign_names(adapter):
        others = _formats_for(adapter, source, registry)
        raise VaderError(
            f"{source}: its model's modules have other names than diffusers' ("
            f"{foreign[0].partition('.lora_')[0]}), so no pipeline could load the file: use another --to "
            f"({others})"
        )
