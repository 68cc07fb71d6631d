"""``vader doctor``."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vader_core.cli.console import console
from vader_core.errors import MachineError
from vader_core.progress import counted

if TYPE_CHECKING:
    from vader_core.registry import Registry

_PACKAGES = (
    "vader-core",
    "torch",
    "safetensors",
    "huggingface_hub",
    "pydantic",
    "av",
    "diffusers",
    "transformers",
    "open_clip_torch",
    "bitsandbytes",
    "wandb",
)
_GIB = 1 << 30


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(as_json: bool) -> None:
    """Show versions, devices, memory, plugins and which weights are here.

    Ends with exit code 1 where something that every run needs is broken.
    """
    from vader_core.registry import load_registry

    found = examined(load_registry())
    if as_json:
        click.echo(json.dumps(found))
    else:
        _print(found)
    if found["faults"]:
        raise MachineError(f"{len(found['faults'])} faults: {'; '.join(found['faults'])}")


def examined(registry: Registry) -> dict[str, Any]:
    """The state of the machine and the installation, as plain data."""
    from vader_core.cli.plugins import overview, problems

    faults: list[str] = []
    found = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "executable": sys.executable,
        "packages": {name: _version(name) for name in _PACKAGES},
        "torch": _torch(faults),
        "memory": _memory(),
        "video_encoder": _encoder(faults),
        "hub": _hub(),
        "plugins": overview(registry)["plugins"],
        "weights": _weights(registry),
    }
    return found | {"faults": [*faults, *problems(overview(registry))]}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _torch(faults: list[str]) -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        faults.append(f"torch cannot be imported: {error}")
        return {}
    devices = []
    for index in range(torch.cuda.device_count()):
        try:
            free, total = torch.cuda.mem_get_info(index)
        except RuntimeError as error:
            faults.append(f"CUDA device {index} does not answer: {str(error).splitlines()[0]}")
            continue
        devices.append(
            {
                "name": torch.cuda.get_device_name(index),
                "free_gib": round(free / _GIB, 1),
                "total_gib": round(total / _GIB, 1),
                "bf16": torch.cuda.is_bf16_supported(),
            }
        )
    return {"cuda": torch.version.cuda, "devices": devices, "threads": torch.get_num_threads()}


def _memory() -> dict[str, float]:
    import psutil

    memory = psutil.virtual_memory()
    return {
        "free_gib": round(memory.available / _GIB, 1),
        "total_gib": round(memory.total / _GIB, 1),
        "disk_free_gib": round(shutil.disk_usage(Path.cwd()).free / _GIB, 1),
        "cores": os.cpu_count() or 1,
    }


def _encoder(faults: list[str]) -> bool:
    """Whether H.264, which samples are written in, can be encoded."""
    try:
        import av

        av.Codec("libx264", "w")
    except (ImportError, ValueError) as error:
        faults.append(f"H.264 cannot be encoded, so no samples can be written: {error} (pip install av)")
        return False
    return True


def _hub() -> dict[str, Any]:
    from huggingface_hub import constants, get_token

    return {
        "endpoint": constants.ENDPOINT,
        "cache": str(constants.HF_HUB_CACHE),
        "offline": bool(constants.HF_HUB_OFFLINE),
        "token": get_token() is not None,
    }


def _weights(registry: Registry) -> dict[str, str]:
    """For each component that wants files, how many of them are here."""
    from vader_core.cli.weights import chosen_components
    from vader_core.wanted import present

    return {
        f"{component.kind} {component.name}": (
            f"{sum(present(wanted) is not None for wanted in component.weights)} of {len(component.weights)}"
        )
        for component in chosen_components(registry, ())
    }


def _files_here(weights: dict[str, str]) -> str:
    """The components of which some file is here, and how many there are beside them.

    >>> _files_here({"reward hps": "1 of 2", "backbone wan": "0 of 4"})
    'reward hps: 1 of 2; none of 1 other component (`vader weights` lists them)'
    """
    here = [f"{name}: {count}" for name, count in weights.items() if not count.startswith("0 ")]
    others = len(weights) - len(here)
    if not others:
        return ", ".join(here)
    absent = (
        f"none of {counted(others, 'other component' if here else 'component')} (`vader weights` lists them)"
    )
    return f"{', '.join(here)}; {absent}" if here else absent


def _print(found: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    versions = [f"{name} {version}" for name, version in found["packages"].items() if version]
    missing = [name for name, version in found["packages"].items() if not version]
    memory, hub = found["memory"], found["hub"]
    devices = [
        f"{device['name']}, {device['free_gib']} of {device['total_gib']} GiB free"
        + ("" if device["bf16"] else ", no bf16")
        for device in found["torch"].get("devices", [])
    ]
    rows = {
        "python": f"{found['python']}, {found['executable']}",
        "platform": found["platform"],
        "packages": ", ".join(versions),
        "not installed": ", ".join(missing),
        "devices": "\n".join(devices) or "no CUDA device: runs on the CPU",
        "memory": f"{memory['free_gib']} of {memory['total_gib']} GiB free, {memory['cores']:g} cores",
        "disk": f"{memory['disk_free_gib']} GiB free here",
        "video": "H.264 can be written" if found["video_encoder"] else "H.264 cannot be written",
        "hub": f"{hub['endpoint']}, cache {hub['cache']}, token {'set' if hub['token'] else 'not set'}"
        + (", offline" if hub["offline"] else ""),
        "plugins": ", ".join(
            f"{plugin['name']} {plugin['version']}" for plugin in found["plugins"] if not plugin["error"]
        ),
        "files here": _files_here(found["weights"]),
    }
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        if value:
            table.add_row(name, escape(value))
    console().print(table)
