"""The command ``vader``: one file per command, each imported only when it is called."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from vader_core import __version__
from vader_core.errors import VaderError, did_you_mean

#: Command -> (module below this package, one line). Nothing of it is imported to list the commands.
COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("train", "Align a video model with rewards."),
    "sample": ("sample", "Sample videos from a base or a tuned model."),
    "evaluate": ("evaluate", "Compare base and tuned model on held-out prompts."),
    "compare": ("compare", "Compare runs and adapters side by side, on one page."),
    "score": ("score", "Score video files with a reward."),
    "data": ("data", "Look at the clips that a model is to learn from."),
    "plugins": ("plugins", "List the installed plugins and what they bring."),
    "show": ("show", "Show a component: options, weights, LoRA targets."),
    "config": ("config", "Print the resolved configuration of a run."),
    "weights": ("weights", "List and download the files that plugins want."),
    "lora": ("lora", "Convert LoRA files."),
    "check": ("check", "Hold a component against its contract."),
    "new-plugin": ("new_plugin", "Write a plugin package that passes the checks."),
    "report": ("report", "Write a run's web page again."),
    "export-site": ("export_site", "Write runs and clips as static pages to hand on."),
    "gradient-norms": ("gradient_norms", "Show which sampling steps carry the reward's gradient."),
    "bench": ("bench", "Measure what a training step costs."),
    "doctor": ("doctor", "Show versions, devices, memory, plugins and weights."),
}


#: What people type who look for a page in the browser.
PAGES = ("studio", "ui", "gui", "web", "webui", "app")
INSTALL_STUDIO = "pip install ./plugins/vader-studio"


class LazyGroup(click.Group):
    """Commands by name, imported when called; plugins' own commands behind ours."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Our commands; listing plugins' own would load every plugin."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name.

        Raises:
            click.UsageError: No such command, with the near one.
        """
        if cmd_name in COMMANDS:
            module = importlib.import_module(f"vader_core.cli.{COMMANDS[cmd_name][0]}")
            found: click.Command = module.command
            return found
        from vader_core.registry import load_registry

        commands = load_registry().commands
        if cmd_name in commands:
            resolved: click.Command = commands[cmd_name].resolve()
            return resolved
        if cmd_name in PAGES:
            ctx.fail(
                f"{cmd_name!r}: `vader studio` serves a page to generate, watch and compare"
                + ("" if "studio" in commands else "; it comes with vader-studio: " + INSTALL_STUDIO)
            )
        names = [*COMMANDS, *commands]
        ctx.fail(f"no command {cmd_name!r}{did_you_mean(cmd_name, names)} (commands: {', '.join(names)})")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands with their lines, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vader")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Align video diffusion models with rewards, through the rewards' gradients.

    Bare `vader train` runs the demo. `vader COMMAND --help` tells a command's options.
    """
    ctx.obj = {**(ctx.obj or {}), "debug": debug}


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a mistake ends in one message and exit code 2 (1 for the machine's failures)."""
    arguments = list(sys.argv[1:] if args is None else args)
    sys.exit(run(arguments))


def run(arguments: list[str]) -> int:
    """Run the command line and return the exit code."""
    try:
        result: Any = cli.main(
            arguments, prog_name="vader", standalone_mode=False, obj={"arguments": arguments}
        )
    except VaderError as error:
        _tell(error, arguments)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        click.echo("error: the disk is full: free it, then continue with --resume", err=True)
        return 1
    return result if isinstance(result, int) else 0


def _tell(error: VaderError, arguments: Sequence[str]) -> None:
    if "--debug" in arguments:
        import traceback

        click.echo("".join(traceback.format_exception(error)), err=True)
    click.echo(f"error: {error}", err=True)
