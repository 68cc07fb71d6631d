"""LoRA files under the models' own names: read by diffusers, read back by us, and refused by name."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from vader_diffusers.lora_names import HUNYUAN_VIDEO, WAN

from vader_core.errors import VaderError
from vader_core.lora.adapter import LoraSettings, adapter_parameters, attach_lora
from vader_core.lora.beside import attach_beside, set_scale
from vader_core.lora.formats import Adapter
from vader_core.registry import load_registry
from vader_core.run.adapters import find_adapter, lora_format

_SPEC = importlib.util.spec_from_file_location(
    "tiny_pipelines", Path(__file__).with_name("tiny_pipelines.py")
)
tiny_pipelines = sys.modules.setdefault("tiny_pipelines", importlib.util.module_from_spec(_SPEC))
if not hasattr(tiny_pipelines, "build"):
    _SPEC.loader.exec_module(tiny_pipelines)

torch.set_num_threads(1)
REGISTRY = load_registry()
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
RANK, ALPHA = 3, 5.0


def denoiser(backbone: str, model: str):
    config = tiny_pipelines.published(backbone)[model].folder["transformer"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        made = getattr(diffusers, config["_class_name"]).from_config(dict(config))
    return made.requires_grad_(False).eval()


def adapter_of(network, targets) -> Adapter:
    """Random numbers in both halves, alpha that is not the rank."""
    attach_lora(network, LoraSettings(rank=RANK, alpha=ALPHA, targets=targets))
    generator = torch.Generator().manual_seed(4)
    tensors = {
        name: torch.randn(value.shape, generator=generator)
        for name, value in adapter_parameters(network).items()
    }
    return Adapter(tensors, RANK, ALPHA)


def updates(adapter: Adapter) -> dict[str, torch.Tensor]:
    """What an adapter adds to each weight."""
    ends = ".lora_A.weight", ".lora_B.weight"
    modules = [name.removesuffix(ends[0]) for name in adapter.tensors if name.endswith(ends[0])]
    scale = adapter.alpha / adapter.rank
    return {
        module: scale
        * adapter.tensors[module + ends[1]].flatten(1)
        @ adapter.tensors[module + ends[0]].flatten(1)
        for module in modules
    }


def updates_in(network) -> dict[str, torch.Tensor]:
    """What the adapter that diffusers loaded adds to each weight."""
    found = {}
    for name, layer in network.named_modules():
        if getattr(layer, "lora_A", None):
            key = next(iter(layer.lora_A))
            down, up = layer.lora_A[key].weight, layer.lora_B[key].weight
            found[name] = layer.scaling[key] * up.detach().flatten(1) @ down.detach().flatten(1)
    return found


def assert_same(found, wanted):
    wanted = {name: value for name, value in wanted.items() if bool(value.any())}
    found = {name: value for name, value in found.items() if bool(value.any())}
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)


FEED = ("ffn.net.0.proj", "ffn.net.2")
CASES = {
    "wan_comfyui": ("wan", "tiny", ATTENTION),
    "wan_comfyui_i2v": ("wan_i2v", "tiny", (*ATTENTION, "add_k_proj", "add_v_proj", *FEED)),
    # diffusers reads musubi's files only where they hold every layer of a block, as musubi's own do
    "wan_kohya": ("wan", "tiny", (*ATTENTION, *FEED)),
    "ltx_comfyui": ("ltx", "tiny", ATTENTION),
    "ltx_comfyui_2": ("ltx2", "tiny-2.3", (*ATTENTION, "proj_in")),
    # diffusers has the width of the published model, 3072, in its reader of single blocks
    "hunyuan_video_comfyui": (
        "hunyuan_video",
        "tiny",
        tuple(f"transformer_blocks.*.{end}" for end in (*ATTENTION, "add_q_proj", "to_add_out", "ff.net.2")),
    ),
}
PIPELINES = {
    "wan": diffusers.WanPipeline,
    "wan_i2v": diffusers.WanImageToVideoPipeline,
    "ltx": diffusers.LTXPipeline,
    "ltx2": diffusers.LTX2Pipeline,
    "hunyuan_video": diffusers.HunyuanVideoPipeline,
}


def format_name(case: str) -> str:
    return next(
        name for name in sorted(REGISTRY.lora_formats, key=len, reverse=True) if case.startswith(name)
    )


@pytest.mark.parametrize("case", CASES)
def test_diffusers_reads_what_we_write(case, tmp_path):
    family, model, targets = CASES[case]
    network = denoiser(family, model)
    adapter, path = adapter_of(network, targets), tmp_path / "lora.safetensors"
    lora_format(format_name(case), REGISTRY).write(adapter, path)
    kind = PIPELINES[family]
    state = kind.lora_state_dict(str(path))
    state = state[0] if isinstance(state, tuple) else state
    read = denoiser(family, model)
    kind.load_lora_into_transformer(state, transformer=read)
    assert_same(updates_in(read), updates(adapter))


EVERY = {
    **CASES,
    "hunyuan_video_kohya": ("hunyuan_video", "tiny", (*ATTENTION, "add_k_proj", "proj_mlp", "proj_out")),
    "hunyuan_video_comfyui_single": ("hunyuan_video", "tiny", ATTENTION),
    "wan_kohya_attention": ("wan", "tiny", ATTENTION),
}


@pytest.mark.parametrize("case", EVERY)
def test_a_file_is_recognised_and_read_back(case, tmp_path):
    family, model, targets = EVERY[case]
    adapter, path = adapter_of(denoiser(family, model), targets), tmp_path / "lora.safetensors"
    written = lora_format(format_name(case), REGISTRY)
    written.write(adapter, path)
    knowing = [name for name in REGISTRY.lora_formats if lora_format(name, REGISTRY).recognises(path)]
    assert knowing == [written.name]
    assert_same(updates(find_adapter(str(path), REGISTRY)), updates(adapter))


@pytest.mark.parametrize("name", ["wan_comfyui", "wan_kohya"])
def test_two_experts_are_two_files(name, tmp_path):
    network = torch.nn.ModuleDict(
        {part: denoiser("wan", "tiny") for part in ("transformer", "transformer_2")}
    )
    adapter, path = adapter_of(network, ATTENTION), tmp_path / "lora.safetensors"
    written = lora_format(name, REGISTRY)
    written.write(adapter, path)
    files = written.paths(adapter, path)
    assert [file.name for file in files] == ["lora_high_noise.safetensors", "lora_low_noise.safetensors"]
    names = [set(load_file(file)) for file in files]
    assert names[0] == names[1]
    assert_same(updates(find_adapter(str(files[1]), REGISTRY)), updates(adapter))
    files[0].unlink()
    with pytest.raises(VaderError, match=r"one of 2 files, and .*high_noise.* is not beside it"):
        find_adapter(str(files[1]), REGISTRY)


def test_a_distilled_one_of_others_counts_beside_ours(tmp_path):
    """Frozen, with a scale of its own; ours goes on learning."""
    stranger = adapter_of(denoiser("wan", "tiny"), (*ATTENTION, *FEED))
    lora_format("wan_kohya", REGISTRY).write(stranger, tmp_path / "distilled.safetensors")
    network = denoiser("wan", "tiny")
    adapter_of(network, ATTENTION)
    given = (torch.randn(1, 4, 1, 4, 4), torch.tensor([500]), torch.randn(1, 3, network.config.text_dim))
    with torch.no_grad():
        plain = network(*given).sample
        attach_beside(
            network, "beside", find_adapter(str(tmp_path / "distilled.safetensors"), REGISTRY), what="a LoRA"
        )
        assert torch.equal(network(*given).sample, plain)
        set_scale(network, "beside", 1.0)
        found = network(*given).sample
        for module, update in updates(stranger).items():
            layer = network.get_submodule(module)
            (layer.base_layer if hasattr(layer, "base_layer") else layer).weight += update
        set_scale(network, "beside", 0.0)
        wanted = network(*given).sample
    assert float((wanted - plain).abs().max()) > 1e-2
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    trained = {name for name, value in network.named_parameters() if value.requires_grad}
    assert trained
    assert all("beside" not in name for name in trained)


def test_a_layer_without_a_name_is_refused(tmp_path):
    adapter = Adapter({f"odd.{half}.weight": torch.ones(2, 2) for half in ("lora_A", "lora_B")}, 2, 2.0)
    with pytest.raises(VaderError, match="'wan_comfyui': the model's own code has no layer for 'odd'"):
        lora_format("wan_comfyui", REGISTRY).write(adapter, tmp_path / "x.safetensors")


def test_a_fused_layer_of_others_is_divided(tmp_path):
    """A file as musubi writes it: one down matrix for query, key and value."""
    down, up = torch.randn(2, 8), torch.randn(24, 2)
    name = "lora_unet_double_blocks_1_img_attn_qkv"
    tensors = {
        f"{name}.lora_down.weight": down,
        f"{name}.lora_up.weight": up,
        f"{name}.alpha": torch.tensor(4.0),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    found = updates(find_adapter(str(tmp_path / "x.safetensors"), REGISTRY))
    for place, part in enumerate(("to_q", "to_k", "to_v")):
        wanted = 2.0 * up[8 * place : 8 * place + 8] @ down
        torch.testing.assert_close(found[f"transformer_blocks.1.attn.{part}"], wanted)


def test_names_go_both_ways():
    for names in (WAN, HUNYUAN_VIDEO):
        for mine, within in names.within.items():
            for inner in within:
                for part in inner.split("|"):
                    module = f"{mine}.{part}".replace("#", "12")
                    theirs = names.theirs(module)
                    assert theirs is not None
                    assert names.ours(theirs[0], flat=False)[theirs[1]] == module
                    assert names.ours(theirs[0].replace(".", "_"), flat=True)[theirs[1]] == module


def test_the_formats_that_a_message_lists_are_those_that_hold_the_lora(tmp_path):
    from vader_core.cli.lora import _formats_for

    (tmp_path / "config.yaml").write_text("backbone: {name: wan}\n")
    adapter = adapter_of(denoiser("wan", "tiny"), ATTENTION)
    known = _formats_for(adapter, str(tmp_path), REGISTRY)
    assert known == "diffusers, peft, wan_comfyui, wan_kohya"
    other = _formats_for(adapter, "lora.safetensors", REGISTRY)  # of a file nobody says which model it is for
    assert {"diffusers", "peft", "wan_comfyui", "wan_kohya"} <= set(other.split(", "))
    assert not {"t2v_turbo", "easyanimate", "opensora", "svd_diffusers"} & set(other.split(", "))
