"""Reading a checkpoint in diffusers' layout, with the names of early and of today's files."""

from __future__ import annotations

import json

import pytest
import torch
from vader_modelscope import checkpoint
from vader_modelscope.architecture import FULL, TINY, find_architecture
from vader_modelscope.backbone import ModelScope
from vader_modelscope.checkpoint import CheckpointFiles, text_encoder_names
from vader_modelscope.options import ModelScopeConfig
from vader_modelscope.text_encoder import HashedWords

from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.nn.diffusers_names import modern_attention_names
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.weights import WeightFile, parse_weights, save_tensors

SMALL = Geometry(height=16, width=16, num_frames=2, fps=8.0)
PROMPTS = [Prompt("a cat", negative="a")]

OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def make(weights: str, **options) -> ModelScope:
    backbone = ModelScope(
        ModelScopeConfig(weights=weights, **options), device=torch.device("cpu"), dtype=torch.float32
    )
    backbone.load()
    return backbone


def old_attention_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As early diffusers saved an autoencoder."""
    renamed = {}
    for name, value in tensors.items():
        stem, new = name, next((new for new in OLD_NAMES if f".attentions.0.{new}." in name), None)
        renamed[stem if new is None else stem.replace(f".{new}.", f".{OLD_NAMES[new]}.")] = value
    return renamed


def write_tokenizer(folder, vocabulary: int) -> None:
    """CLIP's files with single letters and one merge, padded to the model's size."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "ca", "cat</w>"]
    words += [f"unused{i}" for i in range(vocabulary - len(words) - 2)] + ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")


@pytest.fixture(scope="module")
def source() -> ModelScope:
    return make("random", architecture="tiny", seed=3)


@pytest.fixture
def folder(source, tmp_path):
    """The random model, written as the hub has it: early names, prefixed text encoder."""
    modules = {"unet": source.denoiser, "vae": source.autoencoder, "text_encoder": source.text_encoder}
    for part, module in modules.items():
        (tmp_path / part).mkdir()
        config = {"_class_name": "X", "_diffusers_version": "0.15.0.dev0", **TINY.part(part)}
        (tmp_path / part / "config.json").write_text(json.dumps(config))
        tensors = module.state_dict()
        if part == "vae":
            tensors = old_attention_names(tensors)
            assert any(name.endswith("proj_attn.weight") for name in tensors)
        if part == "text_encoder":
            tensors = {
                f"text_model.{name.removeprefix('text_model.')}": value for name, value in tensors.items()
            }
            tensors["text_model.embeddings.position_ids"] = torch.arange(16)[None]
        stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        save_tensors(tensors, tmp_path / part / f"{stem}.safetensors")
    write_tokenizer(tmp_path / "tokenizer", 1000)
    (tmp_path / "scheduler").mkdir()
    scheduler = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "set_alpha_to_one": False,
    }
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return tmp_path


def test_a_folder_is_read_into_the_same_model(source, folder):
    read = make(str(folder))
    assert read.architecture.part("unet") == TINY.part("unet")
    text = source.encode_text(PROMPTS)
    conditioning = source.condition(text, PROMPTS, SMALL, Randomness(seed=1))
    latents = source.initial_noise(1, SMALL, Randomness(seed=1))
    timestep = torch.tensor([400.0])
    ours, theirs = (model.predict(latents, timestep, conditioning).value for model in (read, source))
    assert torch.equal(ours, theirs)
    assert torch.equal(read.decode(latents, SMALL), source.decode(latents, SMALL))
    tokens = torch.randint(0, 1000, (2, 16), generator=torch.Generator().manual_seed(1))
    states = [model.text_encoder(tokens).last_hidden_state for model in (read, source)]
    assert torch.equal(*states)


def test_the_folder_s_own_tokenizer_is_used(folder):
    read = make(str(folder))
    rows = read.tokenizer(["a cat", "cat " * 40])
    cat, start, end = 53, 998, 999
    assert rows.shape == (2, 16)
    assert rows[0].tolist() == [start, 26, cat, *[end] * 13]
    assert rows[1].tolist() == [start, *[cat] * 14, end]
    assert read.encode_text(PROMPTS).positive["embeddings"].shape == (1, 16, 32)


def test_torch_files_are_read_where_there_are_no_safetensors(source, folder):
    for part, stem in (("unet", "diffusion_pytorch_model"), ("text_encoder", "pytorch_model")):
        (path,) = (folder / part).glob("*.safetensors")
        from safetensors.torch import load_file

        torch.save(load_file(path), folder / part / f"{stem}.bin")
        path.unlink()
    read = make(str(folder))
    name, value = next(iter(read.denoiser.state_dict().items()))
    assert torch.equal(value, source.denoiser.state_dict()[name])


def test_missing_and_misfitting_files_are_named(folder):
    (folder / "vae" / "diffusion_pytorch_model.safetensors").rename(folder / "aside")
    with pytest.raises(
        VaderError, match=r"has no vae/diffusion_pytorch_model\.safetensors and no vae/.*\.bin"
    ):
        make(str(folder))
    (folder / "aside").rename(folder / "vae" / "diffusion_pytorch_model.safetensors")
    save_tensors({"conv_in.weight": torch.zeros(1)}, folder / "unet" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(
        VaderError, match=r"unet of backbone 'modelscope': 465 missing, 0 unexpected, 1 of another shape"
    ):
        make(str(folder))


def test_a_checkpoint_of_another_size_is_refused_before_its_weights_are_read(folder):
    with pytest.raises(
        VaderError, match=r"unet/config\.json says .* was built: give -o backbone\.architecture"
    ):
        make(str(folder), architecture="full")


def test_another_noise_schedule_is_refused(folder):
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "v_prediction"}))
    with pytest.raises(VaderError, match=r"says prediction_type='v_prediction'; only 'epsilon' is supported"):
        make(str(folder))


def test_a_single_file_is_refused(folder):
    with pytest.raises(VaderError, match="must be a folder in diffusers' layout"):
        make(str(folder / "unet" / "config.json"), architecture="tiny")
    with pytest.raises(VaderError, match=r"not the single file unet/x\.safetensors"):
        CheckpointFiles(parse_weights("hub:owner/name/unet/x.safetensors"))


def test_both_names_of_the_repository_are_tried(monkeypatch, tmp_path):
    asked = []

    def fetch(wanted: WeightFile, *, needed_for: str, option: str):
        asked.append((wanted.repository, wanted.file))
        if wanted.repository.startswith("damo-vilab"):
            raise VaderError("not here")
        return tmp_path / wanted.file

    monkeypatch.setattr(checkpoint, "fetch", fetch)
    files = CheckpointFiles(parse_weights("pretrained"))
    assert files.find("unet/config.json") == tmp_path / "unet/config.json"
    assert files.find("vae/config.json") == tmp_path / "vae/config.json"
    assert [repository.split("/")[0] for repository, _ in asked] == ["damo-vilab", "ali-vilab", "ali-vilab"]


def test_a_refused_download_says_the_first_reason(monkeypatch):
    def fetch(wanted: WeightFile, *, needed_for: str, option: str):
        raise VaderError(f"{needed_for}: {wanted.repository} {option}")

    monkeypatch.setattr(checkpoint, "fetch", fetch)
    with pytest.raises(VaderError, match=r"damo-vilab/text-to-video-ms-1\.7b --weights FOLDER"):
        CheckpointFiles(parse_weights("pretrained")).find("unet/config.json")


def test_revision_of_a_hub_source_is_kept(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(checkpoint, "fetch", lambda wanted, **_: asked.append(wanted) or tmp_path)
    CheckpointFiles(parse_weights("hub:owner/name@abc")).find("unet/config.json")
    assert (asked[0].repository, asked[0].file, asked[0].revision) == (
        "owner/name",
        "unet/config.json",
        "abc",
    )


def test_architecture_forms(tmp_path, folder):
    assert find_architecture(None, None) is FULL
    assert find_architecture("tiny", None) is TINY
    assert find_architecture(str(folder), None).part("vae") == TINY.part("vae")
    (tmp_path / "sizes.json").write_text(TINY.model_dump_json())
    assert find_architecture(str(tmp_path / "sizes.json"), None) == TINY
    assert find_architecture(TINY.model_dump(), None) == TINY
    with pytest.raises(VaderError, match="use full, tiny, a folder"):
        find_architecture("small", None)
    with pytest.raises(VaderError, match="vae: Field required"):
        find_architecture({"unet": {}, "text_encoder": {}}, None)
    (tmp_path / "sizes.json").write_text("[1")
    with pytest.raises(VaderError, match="is not JSON"):
        find_architecture(str(tmp_path / "sizes.json"), None)


def test_names():
    kernel = torch.arange(4.0).view(2, 2, 1, 1)
    renamed = modern_attention_names(
        {"decoder.mid_block.attentions.0.query.weight": kernel, "key.weight": kernel}
    )
    assert torch.equal(renamed["decoder.mid_block.attentions.0.to_q.weight"], kernel[:, :, 0, 0])
    assert renamed["key.weight"] is kernel
    bare = text_encoder_names(
        {"text_model.a": kernel, "text_model.embeddings.position_ids": kernel}, {"a": 0}
    )
    assert list(bare) == ["a"]
    assert list(text_encoder_names({"a": kernel}, {"text_model.a": 0})) == ["text_model.a"]


def test_hashed_words():
    tokenizer = HashedWords(1000, 8)
    rows = tokenizer(["A red, boat", "a red boat", "word " * 20])
    assert rows.shape == (3, 8)
    assert rows.max() == 999
    assert rows[0, :2].tolist() == rows[1, :2].tolist()
    assert rows[0, 3] == rows[1, 2]
    assert rows[2, -1] == 999
    assert (rows[2, :-1] == rows[2, 0]).all()


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("vae", None, "block_out_channels is no list"),
        ("unet", {"in_channels": [4]}, r"in_channels is \[4\]"),
        ("unet", {"down_block_types": ["NoSuchBlock"] * 2}, "no network can be built"),
        ("text_encoder", {"vocab_size": None}, "vocab_size is None"),
    ],
)
def test_a_folder_with_an_odd_config_is_refused_in_one_message(tmp_path, part, change, said):
    for name in ("unet", "vae", "text_encoder"):
        (tmp_path / name).mkdir()
        parameters = TINY.part(name) | (change or {} if name == part else {})
        held = {} if name == part and change is None else parameters
        (tmp_path / name / "config.json").write_text(json.dumps(held))
    with pytest.raises(VaderError, match=said):
        make("random", architecture=str(tmp_path)).build_denoiser()


def test_a_pointer_in_place_of_a_folder_is_said_to_be_one(tmp_path):
    pointer = tmp_path / "model.safetensors"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(VaderError, match="git-lfs pointer"):
        CheckpointFiles(parse_weights(str(pointer)))
