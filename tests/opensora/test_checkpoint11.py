"""Official files, text2bricks' checkpoints and early diffusers' names, into Open-Sora 1.1."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_opensora11 import make

from vader_core.errors import VaderError
from vader_core.weights import save_tensors

OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@pytest.fixture(scope="module")
def source():
    return make()


@pytest.fixture
def weights(source):
    """The denoiser's tensors, of other values than random weights give."""
    return {name: value + 0.25 for name, value in source.denoiser.state_dict().items()}


def loaded(weights, **options):
    return make(
        weights=str(weights), **{"vae_weights": "random", "text_encoder_weights": "random", **options}
    )


def same(module, tensors) -> bool:
    return all(torch.equal(value, tensors[name]) for name, value in module.state_dict().items())


def sharded(folder, tensors, suffix):
    """Two shards and their index, as Open-Sora's trainer and the hub write them."""
    names = sorted(tensors)
    places = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"{suffix[0]}-{number:05d}-of-00002{suffix[1]}"
        chosen = {name: tensors[name].clone() for name in part}
        if suffix[1] == ".safetensors":
            save_tensors(chosen, folder / file)
        else:
            torch.save(chosen, folder / file)
        places |= dict.fromkeys(part, file)
    index = folder / f"{suffix[0]}{suffix[1]}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))


def test_the_hubs_layout(tmp_path, weights):
    save_tensors(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    assert same(loaded(tmp_path).denoiser, weights)
    assert same(loaded(tmp_path / "model.safetensors").denoiser, weights)


@pytest.mark.parametrize("suffix", [("model", ".safetensors"), ("pytorch_model", ".bin")])
def test_shards(tmp_path, weights, suffix):
    sharded(tmp_path, weights, suffix)
    assert same(loaded(tmp_path).denoiser, weights)


def test_a_training_run_of_text2bricks(tmp_path, weights):
    folder = tmp_path / "epoch3-global_step4000"
    (folder / "model").mkdir(parents=True)
    sharded(folder / "model", weights, ("pytorch_model", ".bin"))
    average = {f"module.{name}": value + 1 for name, value in weights.items()}
    torch.save(average, folder / "ema.pt")
    assert same(loaded(folder).denoiser, weights)
    assert same(loaded(folder / "ema.pt").denoiser, {name: value + 1 for name, value in weights.items()})


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("convolutions", [False, True], ids=["linear", "convolutions"])
@pytest.mark.parametrize("old", [False, True], ids=["today", "early"])
def test_both_namings_of_the_image_autoencoder(source, tmp_path, prefix, convolutions, old):
    wanted = {name: value + 0.25 for name, value in source.autoencoder.state_dict().items()}
    written = {}
    for name, value in wanted.items():
        bare = name.removeprefix("module.")
        attention = ".attentions." in bare and "group_norm" not in bare
        for new, early in OLD_NAMES.items():
            bare = bare.replace(f".{new}.", f".{early}.") if old and attention else bare
        if old and convolutions and attention and value.ndim == 2:
            value = value[:, :, None, None]
        written[prefix + bare] = value
    assert old == any(".query." in name for name in written)
    save_tensors(written, tmp_path / "diffusion_pytorch_model.safetensors")
    assert same(loaded("random", vae_weights=str(tmp_path)).autoencoder, wanted)


def test_a_pipelines_folder_holds_the_autoencoder(source, tmp_path):
    (tmp_path / "vae").mkdir()
    tensors = {name.removeprefix("module."): value for name, value in source.autoencoder.state_dict().items()}
    torch.save(tensors, tmp_path / "vae" / "diffusion_pytorch_model.bin")
    assert same(loaded("random", vae_weights=str(tmp_path)).autoencoder, source.autoencoder.state_dict())


def test_what_does_not_fit_is_named(tmp_path, weights):
    with pytest.raises(VaderError, match=r"none of model\.safetensors"):
        loaded(tmp_path)
    name = next(iter(weights))
    save_tensors({**weights, "pos_embed": torch.zeros(2)}, tmp_path / "more.safetensors")
    with pytest.raises(VaderError, match=r"1 unexpected.*pos_embed"):
        loaded(tmp_path / "more.safetensors")
    save_tensors(
        {other: value for other, value in weights.items() if other != name}, tmp_path / "less.safetensors"
    )
    with pytest.raises(VaderError, match=r"backbone 'opensora11' .denoiser.*1 missing"):
        loaded(tmp_path / "less.safetensors")


@pytest.mark.parametrize(
    "index",
    ['{"weight_map": {"a": "../other.bin"}}', '{"weight_map": {}}', '{"weight_map": {"a": 3}}', "[]", "{"],
)
def test_an_index_names_files_beside_it(tmp_path, index):
    (tmp_path / "pytorch_model.bin.index.json").write_text(index)
    with pytest.raises(VaderError, match="shard"):
        loaded(tmp_path)


def test_random_weights_differ_from_the_other_versions_and_by_part(source):
    table = source.denoiser.blocks[0].scale_shift_table_temporal
    assert 0.3 < float(table.std()) < 0.5
    expected = 10_000.0 ** -(torch.arange(6) / 6)
    torch.testing.assert_close(source.denoiser.rope.freqs.detach(), expected)
