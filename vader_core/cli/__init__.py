"""The command ``vader``: one file per command, each imported only when it is called."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from vader_core.errors import VaderError, did_you_mean
from vader_core.parallel.news import speaks
from vader_core.tokens import refuse_tokens

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
    "export": ("export", "Write a run's full weights as a model's own files."),
    "push": ("push", "Share a run on the hub, with a model card."),
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
        from vader_core.cli.other_words import COMMANDS as OTHER_WORDS

        if cmd_name in OTHER_WORDS:
            ctx.fail(f"no command {cmd_name!r}: {OTHER_WORDS[cmd_name]}")
        ctx.fail(f"no command {cmd_name!r}{did_you_mean(cmd_name, names)} (commands: {', '.join(names)})")

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the words name, and what is left of them.

        Raises:
            VaderError: A flag of one value that is given twice.
        """
        from vader_core.cli.repeated import refuse_repeated

        name, command, rest = super().resolve_command(ctx, args)
        if command is not None:
            refuse_repeated(ctx, command, rest)
        return name, command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands with their lines, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="vader-core", prog_name="vader")
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
    warnings.showwarning = partial(_show_warning, warnings.showwarning)
    sys.exit(run(arguments))


def _show_warning(
    others: Callable[..., None], message: Warning | str, category: type[Warning], file: str, *rest: Any
) -> None:
    """What our own packages warn a person of, as a line; other packages' warnings as Python shows them."""
    if issubclass(category, UserWarning) and any(part.startswith("vader_") for part in Path(file).parts):
        click.echo(f"warning: {message}", err=True)
    else:
        others(message, category, file, *rest)


def run(arguments: list[str]) -> int:
    """Run the command line and return the exit code."""
    try:
        refuse_tokens(arguments)
        result: Any = cli.main(
            arguments, prog_name="vader", standalone_mode=False, obj={"arguments": arguments}
        )
    except VaderError as error:
        _tell(error, arguments)
        return error.exit_code
    except click.NoSuchOption as error:
        from vader_core.cli.other_words import OPTIONS as OTHER_WORDS

        words = OTHER_WORDS.get(error.option_name)
        told = click.UsageError(f"no option {error.option_name}: {words}", error.ctx) if words else error
        told.show()
        return 2
    except click.ClickException as error:
        if speaks(error):
            error.show()
        return 2
    except (KeyboardInterrupt, click.Abort) as error:
        if speaks(error):
            click.echo("interrupted", err=True)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        _tell_unforeseen(error, arguments)
        return 1
    return result if isinstance(result, int) else 0


def _tell_unforeseen(error: Exception, arguments: Sequence[str]) -> None:
    """What no code foresaw: the system's own errors in a line, others whole, once for several processes."""
    if not speaks(error):
        return
    if not isinstance(error, OSError) or "--debug" in arguments:
        raise error
    click.echo(f"error: {_of_the_machine(error)}", err=True)


def _of_the_machine(error: OSError) -> str:
    """What the system said of a file, and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full: free it, then give the same command again, for a training --resume RUN"
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error} (--debug shows where)"


def _tell(error: VaderError, arguments: Sequence[str]) -> None:
    if not speaks(error):
        return
    if "--debug" in arguments:
        import traceback

        click.echo("".join(traceback.format_exception(error)), err=True)
    click.echo(f"error: {error}", err=True)
