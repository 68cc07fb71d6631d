"""Help of the long commands: options in groups, with the defaults that a run has, and examples."""

from __future__ import annotations

from typing import Any

import click

#: Group -> the options in it, by their names in Python. What is in none stands under "This command".
GROUPS: dict[str, tuple[str, ...]] = {
    "Model": ("backbone", "weights", "lora", "lora_scale", "scales"),
    "Video": ("height", "width", "num_frames", "fps"),
    "Sampling": ("sampler", "num_steps", "guidance_scale", "prompts", "negative_prompt"),
    "What it learns from": ("objectives", "rewards", "monitors", "reward_frames", "gradient", "data"),
    "What learns": ("tune", "lora_rank", "lora_alpha", "lora_targets"),
    "Training": ("lr", "batch_size", "accumulate", "max_steps", "max_grad_norm", "keep", "guard"),
    "Machine": ("precision", "device", "seed", "num_processes"),
    "Configuration": ("recipe", "config_file", "options"),
}
#: What a group is called in a command that trains nothing.
_ELSEWHERE = {"What it learns from": "Scores", "Training": "Batches"}
#: Defaults that no model of options holds.
_WORDS = {
    **dict.fromkeys(
        ("height", "width", "num_frames", "fps", "sampler", "num_steps", "guidance_scale", "prompts"),
        "the model's",
    ),
    "lora_targets": "the model's",
    "gradient": "the model's",
    "weights": "pretrained",
    "precision": "fp32 on a CPU, else the model's",
    "device": "the GPU where there is one",
    "lora_rank": "16",
    "lora_alpha": "the rank",
    "num_processes": "1",
    "reward_frames": "random",
}


class GroupedCommand(click.Command):
    """A command whose help groups its options and ends with examples.

    Args:
        *args: As click's.
        examples: Command lines, one by one.
        **kwargs: As click's.
    """

    def __init__(self, *args: Any, examples: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options, group by group."""
        given = [parameter for parameter in self.get_params(ctx) if isinstance(parameter, click.Option)]
        left: dict[str | None, click.Parameter] = {parameter.name: parameter for parameter in given}
        trains = "objectives" in left
        for title, names in GROUPS.items():
            found = [left.pop(name) for name in names if name in left]
            title = title if trains else _ELSEWHERE.get(title, title)
            self._section(ctx, formatter, title, found)
        self._section(ctx, formatter, "This command", list(left.values()))

    def _section(
        self, ctx: click.Context, formatter: click.HelpFormatter, title: str, found: list[click.Parameter]
    ) -> None:
        rows = [row for parameter in found if (row := self._row(ctx, parameter)) is not None]
        if rows:
            with formatter.section(title):
                formatter.write_dl(rows)

    def _row(self, ctx: click.Context, parameter: click.Parameter) -> tuple[str, str] | None:
        row = parameter.get_help_record(ctx)
        if row is None or "[default:" in row[1]:
            return row
        default = default_of(str(parameter.name))
        return (row[0], f"{row[1]}  [default: {default}]") if default else row

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, each on its own line."""
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{example}\n")
        super().format_epilog(ctx, formatter)


def default_of(name: str) -> str:
    """What a run has where the option is left out; empty where that says nothing."""
    from vader_core.cli.options import PLACES
    from vader_core.run.config import RunConfig

    if name in _WORDS:
        return _WORDS[name]
    section, _, key = PLACES.get(name, "").partition(".")
    if section not in RunConfig.model_fields or section in ("lora", "objective"):
        return ""
    model: Any = RunConfig.model_fields[section].annotation
    field = model.model_fields.get(key)
    if field is None or field.default is None:
        return ""
    return f"{field.default:g}" if isinstance(field.default, float) else str(field.default)
