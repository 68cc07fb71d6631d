"""What learns, as weights of the denoiser itself: all of them, or those of named modules."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vader_core.errors import MachineError, VaderError
from vader_core.files import replacing
from vader_core.parallel.whole import copy_whole, in_pieces, own_piece, whole_tree
from vader_core.weights import load_tensors

#: The whole denoiser, under the names of the official checkpoint.
WEIGHTS_FILE = "denoiser.safetensors"
#: Says which modules were trained.
FACTS_FILE = "tuning.json"

Tensors = Mapping[str, Tensor]
Renaming = Callable[[Tensors], dict[str, Tensor]]


class Full:
    """Weights of the denoiser, trained in place.

    What is trained is held in float32, whatever the model's precision: small updates would be lost in 16
    bits. The base model's values lie on the CPU, for evaluation.

    Args:
        denoiser: The network; everything but the trained weights stays frozen.
        modules: Names of modules or of groups of them, as they stand in the weights' dotted names; all by
            default.
        to_official: From the denoiser's own names to the official checkpoint's.
        from_official: Back.

    Raises:
        VaderError: A name that matches no weight.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        modules: Sequence[str] | None = None,
        *,
        to_official: Renaming = dict,
        from_official: Renaming = dict,
    ) -> None:
        self.denoiser, self.modules = denoiser, None if modules is None else tuple(modules)
        self._to_official, self._from_official = to_official, from_official
        self._names = chosen_weights(denoiser, self.modules)
        self._in_a_step = False
        #: Lets go of gathered weights, where they are in pieces.
        self._part: Callable[[], None] = lambda: None
        self._base: dict[str, Tensor] = {}
        for name, parameter in self.parameters().items():
            self._base[name] = parameter.detach().to("cpu", copy=True)
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
            parameter.requires_grad_(True)

    # -- what is trained ---------------------------------------------------------------------------------

    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained weights, float32 (float64 in a float64 model), by the denoiser's names."""
        self._part()
        every = dict(self.denoiser.named_parameters())
        return {name: every[name] for name in self._names}

    def cut(self, part: Callable[[], None]) -> None:
        """The denoiser was cut into pieces: of the base model too this process keeps its own alone.

        Args:
            part: Lets go of gathered weights.
        """
        self._part = part
        for name, parameter in self.parameters().items():
            self._base[name] = self._base[name][own_piece(parameter)[1]].clone()

    def snapshot(self) -> dict[str, Tensor]:
        """Copies of the trained weights, where they are."""
        return {name: value.detach().clone() for name, value in self.parameters().items()}

    @torch.no_grad()
    def restore(self, snapshot: Tensors) -> None:
        """Copy ``snapshot`` into the trained weights."""
        for name, parameter in self.parameters().items():
            copy_whole(parameter, snapshot[name])

    @contextmanager
    def using(self, snapshot: Tensors) -> Iterator[None]:
        """Within, the trained weights are those of ``snapshot``; what was trained waits on the CPU."""
        trained = {name: value.to("cpu", copy=True) for name, value in self._own().items()}
        self.restore(snapshot)
        try:
            yield
        finally:
            self.restore(trained)

    # -- contexts ----------------------------------------------------------------------------------------

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within, the model is the one before tuning; for evaluation, never inside an update.

        Raises:
            VaderError: Asked for inside an update, where the weights are those of the graph.
        """
        if self._in_a_step:
            raise VaderError(
                "--tune full: the base model is asked for inside an update, but its weights are the ones "
                "that learn: leave out what compares with it (base_weight), or use --tune lora"
            )
        with self.using(self._base):
            yield

    @contextmanager
    def scaled(self, factor: float) -> Iterator[None]:
        """Within, the difference to the model before tuning counts ``factor`` times; 0 is :meth:`off`."""
        if factor == 1.0:
            yield
            return
        mixed = {
            name: self._base[name].to(value.device, value.dtype).lerp(value, factor)
            for name, value in self._own().items()
        }
        with self.using(mixed):
            yield

    @contextmanager
    def dropout(self, seed: int) -> Iterator[None]:
        """Around one update; full weights have no dropout of their own."""
        self._in_a_step = True
        try:
            yield
        finally:
            self._in_a_step = False

    @torch.no_grad()
    def set_strength(self, scale: float) -> None:
        """Let the difference to the base model count ``scale`` times from now on."""
        for name, value in self._own().items():
            value.copy_(self._base[name].to(value.device, value.dtype).lerp(value, scale))

    def _own(self) -> dict[str, Tensor]:
        """What this process holds of the trained weights."""
        return {name: own_piece(value.detach())[0] for name, value in self.parameters().items()}

    # -- files -------------------------------------------------------------------------------------------

    def collected(self, snapshot: Tensors | None = None) -> Tensors | None:
        """The whole denoiser's state on the first process's CPU, where it is in pieces; else the snapshot."""
        trained = self.parameters()
        if not any(in_pieces(value) for value in trained.values()):
            return snapshot
        state: dict[str, Tensor] = {**self.denoiser.state_dict(), **trained, **(snapshot or {})}
        found: dict[str, Tensor] = whole_tree(state, keep=torch.distributed.get_rank() == 0)
        return found

    def save(self, folder: Path, snapshot: Tensors | None = None) -> None:
        """Write the whole denoiser under its official names, the trained weights or ``snapshot`` in float32.

        Raises:
            MachineError: It cannot be written.
        """
        state = dict(self.denoiser.state_dict()) | dict(snapshot or self.parameters())
        state = {name: value.detach() for name, value in state.items()}
        official = {
            name: value.cpu().contiguous().clone() for name, value in self._to_official(state).items()
        }
        facts = {"kind": "full", "modules": self.modules}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / WEIGHTS_FILE) as beside:
                save_file(official, beside, metadata={"format": "pt"})
            with replacing(folder / FACTS_FILE) as beside:
                beside.write_text(json.dumps(facts))
        except OSError as error:
            raise MachineError(f"cannot write {folder / WEIGHTS_FILE}: {error}") from error

    def load(self, folder: Path) -> None:
        """Read what :meth:`save` wrote.

        Raises:
            VaderError: It was made for another model, or cannot be read.
        """
        path = folder / WEIGHTS_FILE
        if not path.is_file():
            raise VaderError(f"{folder}: there is no {WEIGHTS_FILE}, so no full weights were saved here")
        own = self._from_official(load_tensors(path, needed_for="full weights"))
        for name, parameter in self.parameters().items():
            if name not in own or own[name].shape != parameter.shape:
                found = "is missing" if name not in own else f"has shape {tuple(own[name].shape)}"
                raise VaderError(
                    f"{path} was saved for another model: {name} {tuple(parameter.shape)} {found}"
                )
        self.restore(own)


def chosen_weights(denoiser: nn.Module, modules: Sequence[str] | None) -> tuple[str, ...]:
    """The names of the weights that learn, in the denoiser's order.

    Raises:
        VaderError: A name that matches no weight.
    """
    names = [name for name, parameter in denoiser.named_parameters() if parameter.is_floating_point()]
    if modules is None:
        return tuple(names)
    idle = [module for module in modules if not any(lies_in(name, module) for name in names)]
    if idle:
        shown = ", ".join(sorted({name.split(".")[0] for name in names}))
        raise VaderError(
            f"tuning.modules: {idle[0]!r} matches no weight of the denoiser (its parts: {shown})"
        )
    return tuple(name for name in names if any(lies_in(name, module) for module in modules))


def lies_in(name: str, module: str) -> bool:
    """Whether a weight's dotted name has the module's as a whole part.

    >>> lies_in("blocks.1.attn.weight", "blocks.1"), lies_in("blocks.10.attn.weight", "blocks.1")
    (True, False)
    """
    return f".{module.strip('.')}." in f".{name}."


def is_full(folder: Path) -> bool:
    """Whether ``folder`` is a checkpoint of full weights."""
    return (folder / WEIGHTS_FILE).is_file() and (folder / FACTS_FILE).is_file()


def modules_of(folder: Path) -> list[str] | None:
    """Which modules were trained there; ``None`` is all."""
    found = json.loads((folder / FACTS_FILE).read_text())["modules"]
    return None if found is None else [str(name) for name in found]
