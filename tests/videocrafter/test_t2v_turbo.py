"""T2V-Turbo's file for VideoCrafter2: a list without names, in the order of the official UNet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_videocrafter import TINY
from vader_videocrafter.lora_format import T2VTurboLora, weight_shapes
from vader_videocrafter.unet import VideoUNet

from vader_core.errors import VaderError
from vader_core.lora.beside import attach_beside, set_scale
from vader_core.nn.build import fill_randomly
from vader_core.registry import load_registry
from vader_core.run.adapters import read_adapter

MANIFEST = Path(__file__).parents[1] / "parity/goldens/videocrafter/manifest_full.json"
PREFIX = "model.diffusion_model."


def full_shapes():
    with torch.device("meta"):
        return weight_shapes(VideoUNet())


def official_shapes():
    """The official model's matrices, 2-D and 3-D kernels, in the order in which it names them."""
    tensors = json.loads(MANIFEST.read_text())
    return {
        name.removeprefix(PREFIX).removesuffix(".weight"): tuple(entry["shape"])
        for name, entry in tensors.items()
        if name.startswith(PREFIX) and name.endswith(".weight") and len(entry["shape"]) in (2, 4, 5)
    }


def a_list(shapes, rank=2, *, projection=True):
    """As cloneofsimo's code saves it; with T2V-Turbo's projection behind the frame rate's embedding."""
    draw = torch.Generator().manual_seed(3)
    made = []
    for name, shape in shapes.items():
        layers = [shape]
        if projection and name == "fps_embedding.2":
            layers.append((320, 256))
        for out, into, *kernel in layers:
            own = min(rank, out, into)
            made.append(torch.randn(out, own, *(1 for _ in kernel), generator=draw))
            made.append(torch.randn(own, into, *kernel, generator=draw))
    return made


def test_the_order_is_the_official_unets():
    assert list(full_shapes().items()) == list(official_shapes().items())


@pytest.mark.parametrize("projection", [True, False])
def test_a_file_is_read_without_the_guidance_embedding(tmp_path, projection):
    small = dict(list(full_shapes().items())[:12])
    path = tmp_path / "unet_lora.pt"
    listed = a_list(small, projection=projection)
    torch.save([torch.nn.Parameter(value) for value in listed], path)
    assert T2VTurboLora().recognises(path)
    adapter = T2VTurboLora(small).read(path)
    assert {name.rpartition(".lora_")[0] for name in adapter.tensors} == set(small)
    assert adapter.alpha == adapter.rank == 2
    assert torch.equal(adapter.tensors["time_embed.0.lora_B.weight"], listed[0])
    last = list(small)[-1]
    assert torch.equal(adapter.tensors[f"{last}.lora_A.weight"], listed[-1])
    assert not any(value.requires_grad for value in adapter.tensors.values())


def test_the_right_plugin_reads_it(tmp_path):
    """ModelScope's lists begin with a convolution, VideoCrafter's with a linear layer."""
    path = tmp_path / "unet_lora.pt"
    torch.save([torch.zeros(1280, 2), torch.zeros(2, 320)], path)
    with pytest.raises(VaderError, match=r"t2v_turbo.*holds 2 tensors instead of"):
        read_adapter(path, load_registry())


def test_a_layer_that_does_not_fit_is_named(tmp_path):
    small = dict(list(full_shapes().items())[:5])
    listed = a_list(small)
    listed[3] = listed[3][:, :-1]
    torch.save(listed, tmp_path / "x.pt")
    with pytest.raises(VaderError, match=r"do not fit time_embed\.2"):
        T2VTurboLora(small).read(tmp_path / "x.pt")


@torch.no_grad()
def test_beside_the_unet_it_is_the_merged_unet(tmp_path):
    """Every kind of layer is among them, convolutions along the frames too."""
    unet = VideoUNet(TINY.unet)
    fill_randomly(unet, 0)
    shapes = weight_shapes(unet)
    torch.save(a_list(shapes, projection=False), tmp_path / "unet_lora.pt")
    adapter = T2VTurboLora(shapes).read(tmp_path / "unet_lora.pt")
    draw = torch.Generator().manual_seed(7)
    context = torch.randn(1, 5, TINY.unet.context_dim, generator=draw)
    latents = torch.randn(1, TINY.unet.in_channels, 3, 8, 8, generator=draw)

    def output():
        return unet(latents, torch.tensor([500.0]), context, torch.tensor([8.0]))

    base = output()
    attach_beside(unet, "rollout", adapter, what="T2V-Turbo")
    assert torch.equal(output(), base)  # no layer takes another way for an adapter that does not count
    set_scale(unet, "rollout", 0.01)
    beside = output()
    set_scale(unet, "rollout", 0.0)
    for name, shape in shapes.items():
        up, down = (adapter.tensors[f"{name}.lora_{half}.weight"].flatten(1) for half in "BA")
        unet.get_submodule(name).base_layer.weight += 0.01 * (up @ down).view(shape)
    merged = output()
    assert float((merged - base).abs().max()) > 1e-2
    torch.testing.assert_close(beside, merged, rtol=1e-4, atol=1e-4)
