"""Weights: from files and folders, never run, never half loaded."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from reward_classes import reward_class
from vader_rewards import weight_files
from vader_rewards.heads import aesthetic_head
from vader_rewards.loading import load_model
from vader_rewards.measure import ROWS
from vader_rewards.plugin import REWARDS

from vader_core.errors import VaderError
from vader_core.performance.offload import modules_of
from vader_core.weights import save_tensors
from vader_core.wrappings import unwrapped

TINY = {"weights": "random", "architecture": "tiny"}


class RunsCode:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


def make(name, **given):
    module, cls, config, _ = REWARDS[name]
    return reward_class(module, cls)(config(**given), device=torch.device("cpu"), dtype=torch.float32)


@pytest.mark.parametrize("name", ["aesthetic", "hps", "pick_score", "viclip", "rainy"])
@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_pickle_that_runs_code_does_not_run(tmp_path, name, writer):
    trace, file = tmp_path / "ran", tmp_path / "weights.pt"
    content = {"state_dict": {"layers.0.weight": RunsCode(trace)}}
    if writer == "torch":
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content))
    option = "head_weights" if name in ("aesthetic", "rainy") else "weights"
    with pytest.raises(VaderError, match=r"refused|not a readable"):
        make(name, **(TINY | {option: str(file)}))
    assert not trace.exists()


def test_the_same_pickle_runs_where_it_is_trusted(tmp_path):
    """The test above would pass on a harmless file too; this one shows that the file is not harmless."""
    trace = tmp_path / "ran"
    pickle.loads(pickle.dumps(RunsCode(trace)))
    assert trace.exists()


@pytest.mark.parametrize("wrapping", [None, "state_dict", "model", "module"])
def test_torch_files_with_and_without_wrapping(tmp_path, wrapping):
    head = aesthetic_head()
    tensors = {name: value + 1 for name, value in head.state_dict().items()}
    torch.save(tensors if wrapping is None else {wrapping: tensors}, tmp_path / "head.pth")
    reward = make("aesthetic", **TINY, head_weights=str(tmp_path / "head.pth"))
    for name, value in reward.head.state_dict().items():
        assert torch.equal(value, tensors[name])


def test_a_folder_stands_for_the_published_names_in_it(tmp_path):
    source = make("actpred", **TINY)
    save_tensors(source.model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(source.model.config.to_dict()), encoding="utf-8")
    reward = make("actpred", weights=str(tmp_path))
    assert reward.labels == source.labels
    for name, value in reward.model.state_dict().items():
        assert torch.equal(value, source.model.state_dict()[name])
    by_file = make("actpred", weights=str(tmp_path / "model.safetensors"))
    assert by_file.labels == source.labels


def test_a_missing_config_is_named(tmp_path):
    save_tensors({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(VaderError, match=r"no config\.json beside the weights.*architecture=PATH"):
        make("actpred", weights=str(tmp_path))


def test_weights_that_do_not_fit_are_listed(tmp_path):
    save_tensors(
        {"layers.0.weight": torch.zeros(3, 3), "other": torch.zeros(1)}, tmp_path / "head.safetensors"
    )
    with pytest.raises(VaderError, match="9 missing, 1 unexpected, 1 of another shape"):
        make("aesthetic", **TINY, head_weights=str(tmp_path / "head.safetensors"))


@pytest.mark.parametrize("content", [{}, {"a": 1}, {"state_dict": {"b": "c"}}])
def test_a_file_without_flat_tensors_is_refused(content):
    with pytest.raises(VaderError, match="holds no flat dictionary"):
        unwrapped(content, what="x")


@pytest.mark.parametrize("name", ["rainy", "snowy", "compression"])
def test_heads_that_are_on_no_hub_say_where_they_are(name):
    with pytest.raises(VaderError, match=rf"{name}_reward\.pt.*reward\.{name}\.head_weights=PATH"):
        make(name, **TINY, head_weights="pretrained")


@pytest.mark.parametrize(
    "name", sorted(set(REWARDS) - {"jpeg_size", "aesthetic_hps", "temporal_flickering", "http"})
)
def test_a_path_that_does_not_exist_is_named(name, tmp_path):
    with pytest.raises(VaderError, match="no such file or folder"):
        make(name, weights=str(tmp_path / "none"))


def test_architecture_mistakes():
    with pytest.raises(VaderError, match=r"use `full`, `tiny`, or the path of a config\.json"):
        make("hps", weights="random", architecture="huge")


def test_random_weights_are_the_same_every_time_and_leave_the_global_generator():
    state = torch.get_rng_state()
    first, second = (make("vjepa", **TINY).model.state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["predictor.embeddings.mask_tokens"].abs().sum() > 0


def test_index_buffers_come_from_the_model():
    class Indexed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(2))
            self.register_buffer("position_ids", torch.arange(3))

    from vader_rewards.loading import completed

    model = Indexed()
    given = {"weight": torch.ones(2), "old.position_ids": torch.arange(9)}
    found = completed(given, model)
    assert set(found) == {"weight", "position_ids"}
    assert torch.equal(found["position_ids"], torch.arange(3))


def test_the_table_names_every_file_once_and_checks_what_is_known():
    assert set(weight_files.BY_REWARD) == set(REWARDS)
    for files in weight_files.BY_REWARD.values():
        assert len({(file.repository, file.file) for file in files}) == len(files)
    assert weight_files.RAINY_HEAD.size == 3715200
    assert all(len(one.sha256 or "") in (0, 64) for files in weight_files.BY_REWARD.values() for one in files)


def test_load_model_with_random_weights_needs_no_file():
    wanted = weight_files.AESTHETIC_HEAD
    head = load_model(
        aesthetic_head,
        "random",
        wanted,
        device=torch.device("cpu"),
        dtype=torch.float32,
        needed_for="x",
        option="y",
    )
    assert len(head.state_dict()) == 10


#: Without a model, or one whose scale is read while it is made.
WITHOUT_WEIGHTS = ("jpeg_size", "temporal_flickering", "pick_score", "clip_score")


@pytest.mark.slow_cases(
    "actpred", "mps", "*grounding_dino_tiny", "aesthetic_hps", "image_reward", "hps_v3", "video_reward"
)
@pytest.mark.parametrize("row", [row for row in ROWS if row not in WITHOUT_WEIGHTS])
def test_a_model_lies_whole_on_its_device(row):
    """The meta device stands for a GPU; PickScore reads its scale while it is made, so it cannot be there."""
    name, given = ROWS[row]
    module, cls, config, _ = REWARDS[name]
    reward = reward_class(module, cls)(config(**given), device=torch.device("meta"), dtype=torch.float32)
    held = [tensor for one in modules_of(reward) for tensor in (*one.parameters(), *one.buffers())]
    assert held
    assert {tensor.device.type for tensor in held} == {"meta"}


def test_listing_imports_nothing_heavy():
    program = (
        "import sys, vader_rewards.plugin; "
        "print([m for m in ('torch', 'transformers', 'open_clip', 'torchvision') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_what_is_not_here_names_an_option_that_works(tmp_path, monkeypatch, capsys):
    from vader_core.cli import run
    from vader_core.video import write_video

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    write_video(torch.rand(8, 3, 64, 64), tmp_path / "clip.mp4", 8.0)
    asked = ["score", str(tmp_path / "clip.mp4"), "--reward", "aesthetic_hps", "--prompt", "a cat"]
    assert run(asked) == 2
    assert "or give -o reward.aesthetic_hps.aesthetic.weights=PATH" in capsys.readouterr().err
    nowhere = tmp_path / "nowhere.safetensors"
    assert run([*asked, "-o", f"reward.aesthetic_hps.aesthetic.weights={nowhere}"]) == 2
    assert f"weights '{nowhere}': no such file or folder" in capsys.readouterr().err  # the option is taken


def test_the_counts_that_tell_a_size_are_those_of_the_models():
    from transformers import CLIPConfig, CLIPModel

    large = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "patch_size": 14}
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
    config = CLIPConfig(
        projection_dim=768, text_config=text, vision_config={**large, "num_hidden_layers": 24}
    )
    with torch.device("meta"):
        counted = [
            (weight_files.CLIP_L14, CLIPModel(config)),
            (weight_files.CLIP_B32, CLIPModel(CLIPConfig())),
            (weight_files.AESTHETIC_HEAD, aesthetic_head()),
        ]
    for wanted, model in counted:
        assert wanted.numbers == sum(parameter.numel() for parameter in model.parameters()), wanted.repository
