"""LoRA files: the official code's two layouts and diffusers'."""

from __future__ import annotations

import pytest
import torch
from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel
from torch import nn
from vader_modelscope.architecture import FULL, TINY
from vader_modelscope.lora_format import (
    DiffusersFormat,
    ListFormat,
    StableLoraFormat,
    architecture_shapes,
    weight_shapes,
)

from vader_core.errors import VaderError
from vader_core.lora.adapter import adapter_of, attach_adapter, load_adapter, save_adapter
from vader_core.lora.formats import Adapter
from vader_core.nn.build import empty_module, fill_randomly
from vader_core.registry import load_registry
from vader_core.run.adapters import read_adapter
from vader_core.weights import save_tensors

SHAPES = architecture_shapes(TINY)


def unet(kind: type[nn.Module] = UNet3DConditionModel) -> nn.Module:
    model = empty_module(lambda: kind(**TINY.part("unet")), device=torch.device("cpu"), dtype=torch.float32)
    fill_randomly(model, 0)
    return model


def drawn(shape, seed: int) -> torch.Tensor:
    return 0.1 * torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def official_list(shapes=SHAPES, rank: int = 4) -> list[torch.Tensor]:
    """As the official code writes it: the rank cut to the layer's smaller side, up before down."""
    tensors = []
    for index, shape in enumerate(shapes.values()):
        own = min(rank, *shape[:2])
        up = drawn((shape[0], own, *(1 for _ in shape[2:])), 2 * index)
        tensors += [up, drawn((own, *shape[1:]), 2 * index + 1)]
    return tensors


def output(model: nn.Module) -> torch.Tensor:
    sample, text = drawn((1, 4, 3, 8, 8), 7), drawn((1, 5, 32), 8)
    with torch.no_grad():
        return model(10 * sample, torch.tensor([300]), encoder_hidden_states=text, return_dict=False)[0]


def test_order_is_that_of_the_modules():
    assert list(weight_shapes(unet())) == list(SHAPES)
    first = next(iter(SHAPES.items()))
    assert first == ("conv_in", (32, 4, 3, 3))


def test_list_round_trip_is_exact_at_a_rank_above_the_narrow_layers(tmp_path):
    """At rank 8 the input and output convolutions keep rank 4, with the same scale as all others."""
    source = tmp_path / "100_unet.pt"
    torch.save(official_list(rank=8), source)
    form = ListFormat(SHAPES)
    assert form.recognises(source)
    adapter = form.read(source)
    assert (adapter.rank, adapter.alpha) == (8, 8.0)
    assert len(adapter.tensors["conv_in.lora_A.weight"]) == 4

    model = unet()
    attach_adapter(model, adapter, what="list")
    assert model.conv_in.scaling == {"default": 1.0}
    assert list(weight_shapes(model)) == list(SHAPES), "the adapter's own layers are no layers of the model"
    form.write(adapter_of(model), tmp_path / "again.pt")
    again = torch.load(tmp_path / "again.pt", weights_only=True)
    assert all(torch.equal(one, other) for one, other in zip(official_list(rank=8), again, strict=True))


def test_list_means_up_of_down(tmp_path):
    """Against the official formula, layer by layer: base(x) + up(down(x))."""
    source = tmp_path / "100_unet.pt"
    tensors = official_list()
    torch.save(tensors, source)
    merged = unet()
    for (name, shape), up, down in zip(SHAPES.items(), tensors[::2], tensors[1::2], strict=True):
        update = up.flatten(1) @ down.flatten(1)
        merged.get_submodule(name).weight.data += update.view(shape)
    model = unet()
    attach_adapter(model, ListFormat(SHAPES).read(source), what="list")
    torch.testing.assert_close(output(model), output(merged), rtol=1e-4, atol=1e-4)
    assert (output(model) - output(unet())).abs().max() > 1e-2


@pytest.mark.slow
def test_list_of_the_full_model_is_found_by_the_registry(tmp_path):
    source = tmp_path / "100_unet.pt"
    with torch.device("meta"):
        shapes = architecture_shapes(FULL)
    torch.save(official_list(shapes, rank=1), source)
    adapter = read_adapter(source, load_registry())
    assert len(adapter.tensors) == 2 * 574
    assert next(iter(adapter.tensors)) == "conv_in.lora_A.weight"


def test_list_errors(tmp_path):
    form = ListFormat(SHAPES)
    short = tmp_path / "short_unet.pt"
    torch.save(official_list()[:-2], short)
    with pytest.raises(
        VaderError, match=rf"holds {2 * len(SHAPES) - 2} tensors instead of {2 * len(SHAPES)}"
    ):
        form.read(short)
    swapped = official_list()
    swapped[0], swapped[1] = swapped[1], swapped[0]
    wrong = tmp_path / "wrong_unet.pt"
    torch.save(swapped, wrong)
    with pytest.raises(VaderError, match="do not fit conv_in"):
        form.read(wrong)
    named = tmp_path / "named.pt"
    torch.save({"a": torch.zeros(1)}, named)
    assert not form.recognises(named)
    with pytest.raises(VaderError, match="no bare list"):
        form.read(named)


def test_list_needs_every_layer(tmp_path):
    tensors = {
        "conv_in.lora_A.weight": torch.zeros(2, 4, 3, 3),
        "conv_in.lora_B.weight": torch.zeros(32, 2, 1, 1),
    }
    with pytest.raises(VaderError, match="--lora-targets all"):
        ListFormat(SHAPES).write(Adapter(tensors, 2, 2.0), tmp_path / "x.pt")
    assert not (tmp_path / "x.pt").exists()


def test_scale_is_written_into_the_up_matrices(tmp_path):
    source = tmp_path / "100_unet.pt"
    torch.save(official_list(), source)
    adapter = ListFormat(SHAPES).read(source)
    ListFormat(SHAPES).write(
        Adapter(adapter.tensors, adapter.rank, 2.0 * adapter.rank), tmp_path / "twice.pt"
    )
    twice = torch.load(tmp_path / "twice.pt", weights_only=True)
    assert torch.equal(twice[0], 2 * official_list()[0])
    assert torch.equal(twice[1], official_list()[1])


def stable_lora_file(path, rank: int = 2) -> dict[str, torch.Tensor]:
    tensors = {}
    for index, (name, shape) in enumerate(SHAPES.items()):
        k = shape[2] if len(shape) > 2 else 1
        tensors[f"{name}.lora_A"] = drawn((rank * k, shape[1] * k), 2 * index)
        tensors[f"{name}.lora_B"] = drawn((shape[0] * k, rank * k), 2 * index + 1)
    save_tensors(tensors, path)
    return tensors


@pytest.mark.slow
def test_stable_lora_means_the_reshaped_product(tmp_path):
    """Against the library's formulas: the product reshaped; in time as k by k, then averaged."""
    path = tmp_path / "100_lora_text_to_video_unet.safetensors"
    tensors = stable_lora_file(path)
    form = StableLoraFormat(SHAPES)
    assert form.recognises(path)
    adapter = form.read(path)
    assert (adapter.rank, adapter.alpha) == (2, 2.0)

    merged = unet()
    for name, shape in SHAPES.items():
        update = tensors[f"{name}.lora_B"] @ tensors[f"{name}.lora_A"]
        if len(shape) == 5:
            update = update.view(*shape[:3], shape[2], 1).mean(dim=-2, keepdim=True)
        merged.get_submodule(name).weight.data += update.view(shape)
    model = unet()
    attach_adapter(model, adapter, what="stable_lora")
    torch.testing.assert_close(output(model), output(merged), rtol=1e-4, atol=1e-4)

    save_adapter(adapter_of(model), tmp_path / "peft")
    again = unet()
    attach_adapter(again, load_adapter(tmp_path / "peft"), what="peft")
    assert torch.equal(output(again), output(model))


def test_stable_lora_writes_linear_layers(tmp_path):
    linear = {name: shape for name, shape in SHAPES.items() if len(shape) == 2}
    tensors = {}
    for index, (name, shape) in enumerate(linear.items()):
        tensors[f"{name}.lora_A.weight"] = drawn((2, shape[1]), 2 * index)
        tensors[f"{name}.lora_B.weight"] = drawn((shape[0], 2), 2 * index + 1)
    form = StableLoraFormat(SHAPES)
    form.write(Adapter(tensors, 2, 2.0), tmp_path / "out.safetensors")
    assert form.recognises(tmp_path / "out.safetensors")
    again = form.read(tmp_path / "out.safetensors").tensors
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], value) for name, value in tensors.items())
    tensors["conv_in.lora_A.weight"], tensors["conv_in.lora_B.weight"] = (
        drawn((2, 4, 3, 3), 0),
        drawn((32, 2, 1, 1), 1),
    )
    with pytest.raises(VaderError, match="cannot hold the convolution conv_in"):
        form.write(Adapter(tensors, 2, 2.0), tmp_path / "other.safetensors")


def test_stable_lora_errors(tmp_path):
    form = StableLoraFormat(SHAPES)
    webui = tmp_path / "webui_100.safetensors"
    save_tensors(
        {"input_blocks.0.0.lora_A": torch.zeros(1), "input_blocks.0.0.lora_B": torch.zeros(1)}, webui
    )
    with pytest.raises(VaderError, match=r"no layer 'input_blocks\.0\.0'.*full_weights"):
        form.read(webui)
    lonely = tmp_path / "lonely.safetensors"
    save_tensors({"time_embedding.linear_1.lora_A": torch.zeros(2, 32)}, lonely)
    with pytest.raises(VaderError, match="only one of lora_A and lora_B"):
        form.read(lonely)


class Loadable(UNet3DConditionModel, PeftAdapterMixin):
    """The class with diffusers' own LoRA reading, which the class itself lacks."""


def test_diffusers_reads_what_is_written(tmp_path):
    """Ranks that differ and an alpha other than the rank: diffusers' own loader must see the same model."""
    source = tmp_path / "100_unet.pt"
    torch.save(official_list(rank=8), source)
    adapter = ListFormat(SHAPES).read(source)
    adapter = Adapter(adapter.tensors, adapter.rank, 0.5 * adapter.rank)
    ours = unet()
    attach_adapter(ours, adapter, what="list")

    path = tmp_path / "pytorch_lora_weights.safetensors"
    form = DiffusersFormat(SHAPES)
    form.write(adapter, path)
    theirs = unet(Loadable)
    theirs.load_lora_adapter(str(tmp_path), prefix="unet", weight_name=path.name)
    torch.testing.assert_close(output(theirs), output(ours), rtol=1e-5, atol=1e-5)

    assert form.recognises(path)
    again = unet()
    attach_adapter(again, form.read(path), what="diffusers")
    torch.testing.assert_close(output(again), output(ours), rtol=1e-5, atol=1e-5)


def test_each_layout_is_told_from_the_others(tmp_path):
    source, stable, other = tmp_path / "a_unet.pt", tmp_path / "b.safetensors", tmp_path / "c.safetensors"
    torch.save(official_list(), source)
    stable_lora_file(stable)
    DiffusersFormat(SHAPES).write(ListFormat(SHAPES).read(source), other)
    forms = [ListFormat(SHAPES), StableLoraFormat(SHAPES), DiffusersFormat(SHAPES)]
    seen = [[form.recognises(path) for form in forms] for path in (source, stable, other)]
    assert seen == [[True, False, False], [False, True, False], [False, False, True]]


def test_t2v_turbos_list_has_one_pair_more(tmp_path):
    """The projection of a guidance embedding, behind the first layer of the time embedding."""
    source = official_list()
    at = 2 * (list(SHAPES).index("time_embedding.linear_1") + 1)
    width = SHAPES["time_embedding.linear_1"][1]
    torch.save(
        [*source[:at], drawn((width, 4), 91), drawn((4, 256), 92), *source[at:]], tmp_path / "turbo.pt"
    )
    torch.save(source, tmp_path / "plain.pt")
    turbo, plain = (ListFormat(SHAPES).read(tmp_path / f"{name}.pt") for name in ("turbo", "plain"))
    assert turbo.tensors.keys() == plain.tensors.keys()
    for name, value in turbo.tensors.items():
        assert torch.equal(value, plain.tensors[name])


def test_the_guidance_projection_stands_where_diffusers_registers_it():
    with torch.device("meta"):
        names = list(weight_shapes(UNet3DConditionModel(**TINY.part("unet"), time_cond_proj_dim=256)))
    assert names[names.index("time_embedding.linear_1") + 1] == "time_embedding.cond_proj"
