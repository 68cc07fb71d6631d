"""One LoRA as many programs write it: read to the same update, or refused by its name."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vader_core.component import Announced
from vader_core.errors import VaderError
from vader_core.lora.adapter import attach_adapter, load_adapter, lora_layers, save_adapter
from vader_core.lora.compared import check_equal
from vader_core.lora.formats import Adapter
from vader_core.lora.reader import is_lora, read_lora
from vader_core.registry import Registry
from vader_core.run.adapters import read_adapter

RANK = 2
MODULES = ("blocks.0.attn.to_q", "blocks.0.attn.to_out.0")


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_q = nn.Linear(6, 6)
        self.to_out = nn.ModuleList([nn.Linear(6, 6)])


def denoiser():
    block = nn.Module()
    block.attn = Attention()
    model = nn.Module()
    model.blocks = nn.ModuleList([block])
    return model


def halves():
    generator = torch.Generator().manual_seed(0)
    return {
        module: (torch.randn(RANK, 6, generator=generator), torch.randn(6, RANK, generator=generator))
        for module in MODULES
    }


def named(form):
    """The tensors under names; ``form`` gives a module's two names."""
    found = {}
    for module, pair in halves().items():
        found.update(zip(form(module), (value.clone() for value in pair), strict=True))
    return found


def peft_names(before="base_model.model.", middle=""):
    return named(lambda m: (f"{before}{m}.lora_A{middle}.weight", f"{before}{m}.lora_B{middle}.weight"))


def old_names():
    def form(module):
        stem, _, target = module.removesuffix(".0").rpartition(".")
        return tuple(f"unet.{stem}.processor.{target}_lora.{side}.weight" for side in ("down", "up"))

    return named(form)


def kohya_names(alpha):
    def form(module):
        flat = "lora_unet_" + module.replace(".", "_")
        return f"{flat}.lora_down.weight", f"{flat}.lora_up.weight"

    alphas = {f"lora_unet_{m.replace('.', '_')}.alpha": torch.tensor(float(alpha)) for m in MODULES}
    return named(form) | alphas


def folder_of(path, tensors, *, name="adapter_model.safetensors", save=save_file, **config):
    path.mkdir()
    save(tensors, path / name)
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": 4, "target_modules": list(MODULES)} | config
    (path / "adapter_config.json").write_text(json.dumps(settings))
    return path


def check(adapter, scale):
    """Attached to the model, each module's update is ``scale`` times up · down."""
    model = denoiser()
    attach_adapter(model, adapter, what="the file")
    layers = dict(lora_layers(model))
    assert set(layers) == set(MODULES)
    for module, (down, up) in halves().items():
        found = layers[module].product("default")
        torch.testing.assert_close(found, scale * up @ down)


@pytest.mark.parametrize(
    "tensors",
    [
        peft_names(),
        peft_names(middle=".default"),
        peft_names("base_model.model._orig_mod."),
        peft_names("_fsdp_wrapped_module.base_model.model._checkpoint_wrapped_module."),
        peft_names("module.base_model.model."),
        peft_names("_orig_mod.module.base_model.model."),
    ],
    ids=["plain", "default", "compiled", "blocks", "ddp", "both"],
)
@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_pefts_folder_whatever_wrapped_the_model(tmp_path, tensors, ending):
    save = save_file if ending == "safetensors" else torch.save
    folder = folder_of(tmp_path / "a", tensors, name=f"adapter_model.{ending}", save=save)
    assert is_lora(folder)
    check(read_lora(folder), 4 / RANK)


@pytest.mark.parametrize(
    ("tensors", "scale"),
    [
        (peft_names("diffusion_model."), 1.0),
        (peft_names("unet."), 1.0),
        (peft_names("transformer."), 1.0),
        (peft_names(""), 1.0),
        (old_names(), 1.0),
        (kohya_names(4), 2.0),
        (kohya_names(RANK), 1.0),
        (named(lambda m: (f"unet.{m}.lora.down.weight", f"unet.{m}.lora.up.weight")), 1.0),
    ],
    ids=["comfyui", "unet", "transformer", "bare", "old", "kohya", "kohya-rank", "2023"],
)
def test_files_of_other_programs(tmp_path, tensors, scale):
    save_file(tensors, tmp_path / "any.name")
    assert is_lora(tmp_path / "any.name")
    check(read_lora(tmp_path / "any.name"), scale)


@pytest.mark.parametrize(
    ("notes", "scale"),
    [
        ({"lora_adapter_metadata": json.dumps({"r": RANK, "lora_alpha": 16})}, 8.0),
        ({"lora_adapter_metadata": json.dumps({"unet.r": RANK, "unet.lora_alpha": 16})}, 8.0),
        ({"lora_adapter_metadata": json.dumps({"r": RANK, "lora_alpha": 4, "use_rslora": True})}, 4 / 2**0.5),
        ({"r": "2", "lora_alpha": "6"}, 3.0),
        ({"ss_network_alpha": "8", "ss_network_dim": "2"}, 4.0),
        ({"format": "pt"}, 1.0),
    ],
)
@pytest.mark.parametrize("prefix", ["", "unet."])
def test_alpha_in_the_header_counts(tmp_path, notes, scale, prefix):
    (tmp_path / "a").mkdir()
    save_file(peft_names(prefix), tmp_path / "a/pytorch_lora_weights.safetensors", notes)
    for path in (tmp_path / "a", tmp_path / "a/pytorch_lora_weights.safetensors"):
        check(read_lora(path), scale)


def test_one_modules_own_alpha_and_rank(tmp_path):
    folder = folder_of(tmp_path / "a", peft_names(), alpha_pattern={"attn.to_q": 12})
    adapter = read_lora(folder)
    model = denoiser()
    attach_adapter(model, adapter, what="the file")
    layers = dict(lora_layers(model))
    for (module, (down, up)), scale in zip(halves().items(), (6.0, 2.0), strict=True):
        torch.testing.assert_close(layers[module].product("default"), scale * up @ down)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'.*Convert it with peft"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"init_lora_weights": "olora"}, "olora"),
        ({"init_lora_weights": "corda"}, "corda"),
        ({"init_lora_weights": "loftq"}, "loftq"),
        ({"peft_type": "LOHA"}, "peft_type is LOHA"),
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["head"]}, "modules_to_save"),
        ({"lora_alpha": "many"}, "no number"),
        ({"lora_alpha": float("nan")}, "not a finite number"),
        ({"r": 0}, "r is 0"),
        ({"alpha_pattern": [1, 2]}, "alpha_pattern"),
    ],
)
def test_more_than_a_plain_lora_is_refused_by_name(tmp_path, config, words):
    with pytest.raises(VaderError, match=words):
        read_lora(folder_of(tmp_path / "a", peft_names(), **config))


@pytest.mark.parametrize("start", [True, False, "gaussian", "orthogonal", "eva"])
def test_starts_that_leave_the_base_alone_are_read(tmp_path, start):
    check(read_lora(folder_of(tmp_path / "a", peft_names(), init_lora_weights=start)), 2.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_number_that_is_not_finite_names_its_tensor(tmp_path, value, dtype):
    tensors = {name: tensor.to(dtype) for name, tensor in peft_names().items()}
    name = f"base_model.model.{MODULES[1]}.lora_B.weight"
    tensors[name][0, 0] = value
    with pytest.raises(VaderError, match=f"{name} holds"):
        read_lora(folder_of(tmp_path / "a", tensors))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unet.a.hada_w1_a", "LoHa"),
        ("lora_unet_a.lokr_w1", "LoKr"),
        ("unet.a.lora_magnitude_vector", "DoRA"),
        ("lora_unet_a.dora_scale", "DoRA"),
        ("text_encoder.a.lora_A.weight", "text encoder"),
        ("lora_te_a.lora_down.weight", "text encoder"),
        ("lora_te1_a.lora_down.weight", "text encoder"),
        ("blocks.0.weight", "no tensor of a plain LoRA"),
        ("unet.b.lora_A.weight", "no counterpart"),
    ],
)
def test_what_it_looks_like_is_said(tmp_path, name, words):
    save_file({**peft_names("unet."), name: torch.ones(2, 2)}, tmp_path / "a.safetensors")
    with pytest.raises(VaderError, match=words):
        read_lora(tmp_path / "a.safetensors")


def test_a_name_that_is_no_text_is_shown_and_not_written(tmp_path, registry):
    torch.save({**kohya_names(8), "\ud800": torch.ones(2)}, tmp_path / "a.bin")
    with pytest.raises(VaderError, match="no tensor of a plain LoRA"):
        read_adapter(tmp_path / "a.bin", registry)


def test_a_pair_that_is_none_shows_both_shapes(tmp_path):
    tensors = kohya_names(8)
    name = next(name for name in tensors if name.endswith("lora_up.weight"))
    save_file({**tensors, name: torch.tensor(8.0)}, tmp_path / "a.safetensors")
    with pytest.raises(VaderError, match=r"\(2, 6\) and .*lora_up.weight \(\) are no pair"):
        read_lora(tmp_path / "a.safetensors")


def test_another_models_names_are_shown_beside_the_denoisers(tmp_path):
    save_file({"x.lora_A.weight": torch.ones(2, 6), "x.lora_B.weight": torch.ones(6, 2)}, tmp_path / "a")
    with pytest.raises(VaderError, match=r"another model.*'x'.*begin with 'blocks.0.attn.to_q'"):
        attach_adapter(denoiser(), read_lora(tmp_path / "a"), what="the file")


@pytest.mark.parametrize("text", ["[" * 100_000, "[1]", "null", '{"r": 2}', "\x00", ""])
def test_a_config_that_is_none_is_one_message(tmp_path, text):
    folder = folder_of(tmp_path / "a", peft_names())
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(VaderError, match=r"adapter_config\.json is missing or unreadable"):
        load_adapter(folder)


def test_what_is_written_is_compared_with_what_was_meant(tmp_path):
    adapter = Adapter({k.removeprefix("base_model.model."): v for k, v in peft_names().items()}, RANK, 4.0)
    save_adapter(adapter, tmp_path / "a")
    check_equal(adapter, load_adapter(tmp_path / "a"), what="a")
    stronger = Adapter(adapter.tensors, RANK, 5.0)
    with pytest.raises(VaderError, match="another one than was written"):
        check_equal(adapter, stronger, what="a")


class _Torn:
    """A stranger's format whose question fails."""

    def recognises(self, path):
        raise RuntimeError("the weather is bad")


def test_a_broken_format_keeps_no_other_file_out(tmp_path):
    registry = Registry()
    for name, target in (("gone", "no_such_module:Format"), ("torn", f"{__name__}:_Torn")):
        registry.lora_formats[name] = Announced(name, target, "", "stranger")
    save_file(peft_names(""), tmp_path / "a.safetensors")
    check(read_adapter(tmp_path / "a.safetensors", registry), 1.0)
    save_file({"weight": torch.zeros(2)}, tmp_path / "b.safetensors")
    with pytest.raises(VaderError, match=r"'gone' cannot be asked: .*no_such_module.*'torn' .*the weather"):
        read_adapter(tmp_path / "b.safetensors", registry)
