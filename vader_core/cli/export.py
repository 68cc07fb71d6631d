"""``vader export``."""

from __future__ import annotations

import json

import click

from vader_core.cli.help import GroupedCommand
from vader_core.cli.paths import EnteredPath


@click.command(
    "export",
    cls=GroupedCommand,
    examples=("vader export runs/mine EasyAnimateV2-mine/transformer --dtype bf16",),
)
@click.argument("run", metavar="RUN")
@click.argument("out", type=EnteredPath(), metavar="OUT")
@click.option("--dtype", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True)
@click.option("--overwrite", is_flag=True, help="Write into a folder that is not empty.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(run: str, out: str, dtype: str, overwrite: bool, as_json: bool) -> int:
    """Write the full weights of RUN as safetensors under the model's official names."""
    from vader_core.api.export import export

    found = export(run, out, dtype=dtype, overwrite=overwrite)
    if as_json:
        click.echo(json.dumps(found))
        return 0
    click.echo(f"{found['tensors']} tensors, {found['parameters']:,} parameters: {', '.join(found['files'])}")
    if not found["config"]:
        click.echo("config.json is the official model's: copy it beside the weights")
    return 0
