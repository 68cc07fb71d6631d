"""The two LoRA layouts of the official training code, and diffusers'.

*List files* (`N_unet.pt`, and `unet_lora.pt` of T2V-Turbo): see :mod:`vader_core.lora.listed`.

*stable_lora files* (`N_lora_text_to_video_unet.safetensors`): `<module>.lora_A` and `<module>.lora_B` in
the manner of loralib, alpha equal to the rank. For a linear layer they are what peft calls them. For a
convolution of kernel k they are [rk, in k] and [out k, rk], and it is the flattened product that is
reshaped into the kernel's update; for the temporal convolutions, whose kernel is (k, 1, 1), the product is
reshaped as if it were k by k and averaged over the last axis.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from vader_core.errors import VaderError
from vader_core.files import replacing
from vader_core.lora.formats import Adapter, LoraFormat
from vader_core.lora.listed import first_shape, read_listed
from vader_core.lora.reader import read_lora
from vader_core.weights import load_tensors, tensor_names, write_tensors
from vader_modelscope.architecture import FULL, Architecture

#: T2V-Turbo's projection of a guidance embedding, and the embedding's width.
GUIDANCE_PROJECTION, GUIDANCE_WIDTH = "time_embedding.cond_proj", 256

#: Kinds of layer that the official code puts a LoRA into.
LAYERS = (nn.Linear, nn.Conv2d, nn.Conv3d)


def weight_shapes(denoiser: nn.Module) -> dict[str, tuple[int, ...]]:
    """The weight's shape of every linear layer and convolution, in `named_modules()` order."""
    return {
        name.replace(".base_layer", ""): tuple(layer.weight.shape)
        for name, layer in denoiser.named_modules()
        if isinstance(layer, LAYERS) and not {"lora_A", "lora_B"} & set(name.split("."))
    }


@cache
def _full_shapes() -> dict[str, tuple[int, ...]]:
    return architecture_shapes(FULL)


def architecture_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """:func:`weight_shapes` of an architecture; nothing is allocated."""
    from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel

    with torch.device("meta"):
        return weight_shapes(UNet3DConditionModel(**architecture.part("unet")))


class _ModelScopeFormat(LoraFormat):
    """What both layouts share: the modules they speak of.

    Args:
        shapes: From :func:`weight_shapes`; left out, those of the published model.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]] | None = None) -> None:
        self._shapes = shapes

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The weight's shape of every linear layer and convolution, in order."""
        return _full_shapes() if self._shapes is None else self._shapes

    @abstractmethod
    def read(self, path: Path) -> Adapter:
        """Read a file."""

    def _error(self, message: str) -> VaderError:
        return VaderError(f"LoRA format {self.name!r}: {message}")

    def _pair(self, adapter: Adapter, module: str) -> tuple[Tensor, Tensor]:
        """Down and up matrix of ``module``, the adapter's scale within up; float32."""
        try:
            down, up = (adapter.tensors[f"{module}.{side}.weight"].float() for side in ("lora_A", "lora_B"))
        except KeyError as error:
            raise self._error(f"the adapter has no {error.args[0]}") from error
        return down, up * (adapter.alpha / adapter.rank)

    def _modules(self, adapter: Adapter) -> list[str]:
        """The adapter's modules in the model's order."""
        asked = {key.rsplit(".lora_", 1)[0] for key in adapter.tensors}
        unknown = sorted(asked - self.shapes.keys())
        if unknown:
            raise self._error(f"ModelScope's U-Net has no layer {unknown[0]!r}")
        return [module for module in self.shapes if module in asked]


class ListFormat(_ModelScopeFormat):
    """`N_unet.pt`: [up, down, up, down, …] over every layer, matched by order."""

    name = "modelscope_list"

    def recognises(self, path: Path) -> bool:
        """Whether it is a bare list whose first pair is a convolution's; the pickle is never run."""
        return len(first_shape(path) or ()) == len(next(iter(self.shapes.values())))

    def read(self, path: Path) -> Adapter:
        """Read a list file; T2V-Turbo's has one pair more.

        That pair belongs to the projection of a guidance embedding which T2V-Turbo adds to the U-Net. Its
        base weight is drawn at random and in no file, so the embedding is left out.

        Raises:
            VaderError: No list of tensors, another number of them than twice the layers, or a shape that
                does not fit.
        """
        behind = "time_embedding.linear_1"
        projection = {GUIDANCE_PROJECTION: (behind, (self.shapes[behind][1], GUIDANCE_WIDTH))}
        return read_listed(path, self.shapes, what=f"LoRA format {self.name!r}", left_out=projection)

    def write(self, adapter: Adapter, path: Path) -> None:
        """Write a list file: float32, the scale alpha / rank within the up matrices.

        Raises:
            VaderError: The adapter leaves layers out; the order of a list file has no gaps.
        """
        if path.suffix == ".safetensors":
            raise self._error(f"{path}: a list file is a torch file: let its name end in .pt")
        modules = self._modules(adapter)
        if len(modules) != len(self.shapes):
            missing = next(module for module in self.shapes if module not in set(modules))
            raise self._error(
                f"the adapter covers {len(modules)} of {len(self.shapes)} layers ({missing} is the first "
                "without one), but a list file is matched by order: train with --lora-targets all, or "
                "convert to another format"
            )
        pairs = [self._pair(adapter, module) for module in modules]
        flat = [matrix.contiguous() for down, up in pairs for matrix in (up, down)]
        with replacing(path) as beside:
            torch.save(flat, beside)


class StableLoraFormat(_ModelScopeFormat):
    """`N_lora_text_to_video_unet.safetensors`, as `stable_lora` writes them."""

    name = "modelscope_stable_lora"

    def recognises(self, path: Path) -> bool:
        """Whether it is a safetensors file whose every key ends in `.lora_A` or `.lora_B`."""
        keys = tensor_names(path)
        return bool(keys) and all(key.endswith((".lora_A", ".lora_B")) for key in keys)

    def read(self, path: Path) -> Adapter:
        """Read a stable_lora file; a convolution's pair becomes an equal one of rank r k^2 in peft's form.

        Raises:
            VaderError: A layer that the U-Net lacks (the web interface's variant has the original model's
                names), one side without the other, or a shape that does not fit.
        """
        found = load_tensors(path, needed_for=f"LoRA format {self.name!r}")
        tensors: dict[str, Tensor] = {}
        rank = 0
        for module in dict.fromkeys(key.rsplit(".", 1)[0] for key in found):
            if module not in self.shapes:
                raise self._error(
                    f"{path}: ModelScope's U-Net has no layer {module!r}; give the file from full_weights, "
                    "not the one for the web interface or for the text encoder"
                )
            lora_a, lora_b = found.get(f"{module}.lora_A"), found.get(f"{module}.lora_B")
            if lora_a is None or lora_b is None:
                raise self._error(f"{path}: {module} has only one of lora_A and lora_B")
            down, up = self._to_peft(module, lora_a.float(), lora_b.float())
            tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"] = down, up
            rank = max(rank, len(lora_a) // (self.shapes[module][2] if len(self.shapes[module]) > 2 else 1))
        if not tensors:
            raise self._error(f"{path} is empty")
        return Adapter(tensors, rank=rank, alpha=float(rank))

    def _to_peft(self, module: str, lora_a: Tensor, lora_b: Tensor) -> tuple[Tensor, Tensor]:
        shape = self.shapes[module]
        outputs, inputs = shape[:2]
        k = shape[2] if len(shape) > 2 else 1
        inner = len(lora_a)
        if tuple(lora_a.shape) != (inner, inputs * k) or tuple(lora_b.shape) != (outputs * k, inner):
            raise self._error(
                f"lora_A {tuple(lora_a.shape)} and lora_B {tuple(lora_b.shape)} do not fit {module}, whose "
                f"weight is {shape}"
            )
        if len(shape) == 2:
            return lora_a, lora_b
        # Output o of the reshaped product is the concatenation over j < k of lora_B[o k + j] @ lora_A: one
        # row of [lora_B[o k], …, lora_B[o k + k - 1]] times k copies of lora_A along a diagonal.
        down = torch.block_diag(*[lora_a] * k).view(k * inner, inputs, k, k)
        up = lora_b.reshape(outputs, k * inner)
        if len(shape) == 5:
            return down.mean(dim=-1)[..., None, None], up[..., None, None, None]
        return down, up[..., None, None]

    def write(self, adapter: Adapter, path: Path) -> None:
        """Write the linear layers' pairs, float32, the scale alpha / rank within lora_B.

        Raises:
            VaderError: The adapter holds a convolution: the layout's product of matrices cannot hold peft's.
        """
        tensors: dict[str, Tensor] = {}
        for module in self._modules(adapter):
            if len(self.shapes[module]) > 2:
                raise self._error(f"cannot hold the convolution {module}: convert to modelscope_list or peft")
            down, up = self._pair(adapter, module)
            tensors[f"{module}.lora_A"], tensors[f"{module}.lora_B"] = down, up
        write_tensors(tensors, path)


class DiffusersFormat(_ModelScopeFormat):
    """`unet.<module>.lora_A.weight` and `.lora_B.weight`, for `load_lora_adapter(…, prefix="unet")`."""

    name = "modelscope_diffusers"

    def recognises(self, path: Path) -> bool:
        """Whether it is a safetensors file whose every key begins with `unet.` and ends as a LoRA's."""
        keys = tensor_names(path)
        ends = (".lora_A.weight", ".lora_B.weight")
        return bool(keys) and all(key.startswith("unet.") and key.endswith(ends) for key in keys)

    def read(self, path: Path) -> Adapter:
        """Read such a file: alpha is what its header says, else the rank, and goes into lora_B.

        Raises:
            VaderError: Other keys, or a layer that the U-Net lacks.
        """
        adapter = read_lora(path)
        modules = self._modules(adapter)
        tensors = {}
        for module in modules:
            tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"] = self._pair(
                adapter, module
            )
        rank = max(len(value) for key, value in tensors.items() if ".lora_A." in key)
        return Adapter(tensors, rank=rank, alpha=float(rank))

    def write(self, adapter: Adapter, path: Path) -> None:
        """Write float32, the scale within lora_B; layers of smaller rank are filled up with zeros.

        diffusers scales every layer by the first layer's rank over its own, so all must have the same.
        """
        tensors: dict[str, Tensor] = {}
        pairs = {module: self._pair(adapter, module) for module in self._modules(adapter)}
        rank = max(len(down) for down, _ in pairs.values())
        for module, (down, up) in pairs.items():
            tensors[f"unet.{module}.lora_A.weight"] = _widened(down, 0, rank)
            tensors[f"unet.{module}.lora_B.weight"] = _widened(up, 1, rank)
        write_tensors(tensors, path, {"format": "pt"})


def _widened(matrix: Tensor, axis: int, rank: int) -> Tensor:
    """``matrix`` with zeros appended along ``axis`` up to ``rank``."""
    shape = list(matrix.shape)
    shape[axis] = rank - shape[axis]
    return torch.cat([matrix, matrix.new_zeros(shape)], dim=axis)
