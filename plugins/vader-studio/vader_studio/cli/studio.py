"""``vader studio``."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path
from typing import Any

import click

from vader_core.errors import VaderError
from vader_core.paths import entered


class Folder(click.Path):
    """A folder whose ``~`` is expanded."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, absolute, its links followed."""
        return entered(Path(os.fsdecode(super().convert(value, param, ctx)))).resolve()


@click.command("studio")
@click.argument("runs", type=Folder(), default=Path("runs"))
@click.option("--clips", type=Folder(), default=Path("clips"), show_default=True, help="Folder of clips.")
@click.option("--loras", type=Folder(), multiple=True, help="Folder with adapter files (repeat).")
@click.option("--weights", type=Folder(), multiple=True, help="Folder with models' weights (repeat).")
@click.option("--data", type=Folder(), multiple=True, help="Folder with prompts or clips for runs (repeat).")
@click.option("--state", type=Folder(), help="Folder of the queue; RUNS/.studio by default.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=int, default=7860, show_default=True, help="Port; 0 takes a free one.")
@click.option("--token", help="Word that opens it; made up where --host is not this machine alone.")
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), help="By default the accelerator that is there."
)
@click.option("--gpu", "gpus", multiple=True, metavar="N", help="Work on GPU N (repeat: one job on each).")
@click.option("--read-only", is_flag=True, help="Show runs, comparisons and clips, and change nothing.")
def command(**flags: Any) -> None:
    """Serve a page to generate, start and watch runs, compare and share.

    Only files in RUNS and the folders above can be read. Nothing is asked of any other machine, but for
    weights that the models themselves download. On this machine no token is needed; any other --host needs
    one, and the printed address holds it.
    """
    from vader_studio.guard import LOOPBACK

    host: str = flags["host"]
    token = flags["token"] or (None if host in LOOPBACK else secrets.token_urlsafe(24))
    if flags["token"] is not None and len(flags["token"]) < 8:
        raise VaderError("--token is at least 8 characters long")
    if any(not gpu.isdigit() for gpu in flags["gpus"]):
        raise VaderError(f"--gpu {' '.join(flags['gpus'])}: give the number of a GPU")
    listener = _listener(host, flags["port"])
    port = listener.getsockname()[1]
    name = f"[{host}]" if ":" in host else host
    shown = f"http://{'localhost' if host in ('127.0.0.1', '::1') else name}:{port}/"
    click.echo(f"vader studio: {shown}{f'?token={token}' if token else ''}  (Ctrl-C ends it)")
    _serve(flags, host, token, listener)


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
        found.listen(128)  # from here on a browser waits rather than being turned away
    except (OSError, OverflowError) as error:
        found.close()
        why = getattr(error, "strerror", None) or error
        raise VaderError(f"--host {host} --port {port}: {why}; give another --port") from error
    return found


def _serve(flags: dict[str, Any], host: str, token: str | None, listener: socket.socket) -> None:
    import uvicorn

    from vader_studio.describer import PLANNING, Describer
    from vader_studio.guard import LOOPBACK
    from vader_studio.places import Places
    from vader_studio.queue import Queue
    from vader_studio.server import make_app
    from vader_studio.studio import Studio

    runs: Path = flags["runs"].resolve()
    state: Path = flags["state"] or runs / ".studio"
    places = Places(
        runs=runs,
        clips=flags["clips"].resolve(),
        state=state,
        loras=flags["loras"],
        weights=flags["weights"],
        data=flags["data"],
    )
    studio = Studio(
        places,
        Queue(state / "jobs", flags["gpus"] or ("",)),
        Describer(state / "describer.log"),
        Describer(state / "planner.log", patience=PLANNING),
        device=flags["device"],
        read_only=flags["read_only"],
    )
    app = make_app(studio, hosts=LOOPBACK if host in LOOPBACK else (), token=token)
    settings = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
    uvicorn.Server(settings).run(sockets=[listener])
