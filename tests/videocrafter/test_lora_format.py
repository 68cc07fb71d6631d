"""VADER's `.pt` files, in and out."""

from __future__ import annotations

import pytest
import torch
from vader_videocrafter.lora_format import PREFIX, VideoCrafterLora, from_official, to_official

from vader_core.errors import VaderError
from vader_core.lora.adapter import LoraSettings, adapter_of, adapter_parameters, attach_adapter, attach_lora
from vader_core.lora.formats import Adapter
from vader_core.tensor_files import kind_of

FORMAT = VideoCrafterLora()


def trained_adapter(backbone, *, rank: int = 4, alpha: float = 8.0) -> Adapter:
    attach_lora(backbone.denoiser, LoraSettings(rank, alpha, backbone.lora_targets))
    with torch.no_grad():
        for index, value in enumerate(adapter_parameters(backbone.denoiser).values()):
            value.copy_(0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(index)))
    return adapter_of(backbone.denoiser)


def test_round_trip_is_exact(backbone, tmp_path):
    ours = trained_adapter(backbone)
    FORMAT.write(ours, tmp_path / "lora.pt")
    assert FORMAT.recognises(tmp_path / "lora.pt")
    again = FORMAT.read(tmp_path / "lora.pt")
    assert (again.rank, again.alpha) == (ours.rank, ours.alpha) == (4, 8.0)
    assert again.tensors.keys() == ours.tensors.keys()
    assert all(torch.equal(again.tensors[name], value) for name, value in ours.tensors.items())
    FORMAT.write(again, tmp_path / "again.pt")
    first, second = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("lora", "again"))
    assert list(first) == list(second)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_file_holds_what_the_official_script_saves(backbone, tmp_path):
    FORMAT.write(trained_adapter(backbone), tmp_path / "lora.pt")
    stored = torch.load(tmp_path / "lora.pt", weights_only=True)
    assert all(
        key.startswith(PREFIX) and key.endswith((".lora_A.weight", ".lora_B.weight")) for key in stored
    )
    assert {value.dtype for value in stored.values()} == {torch.float32}


@pytest.mark.quick_cases("4.0")
@pytest.mark.parametrize("alpha", [4.0, 16.0, 5.0])
def test_another_alpha_is_folded_in_and_changes_no_prediction(backbone, tmp_path, alpha):
    from tiny_videocrafter import make_backbone

    FORMAT.write(trained_adapter(backbone, alpha=alpha), tmp_path / "lora.pt")
    other = make_backbone()
    other.load()
    attach_adapter(other.denoiser, FORMAT.read(tmp_path / "lora.pt"), what="lora.pt")
    latents = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    context = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before, after = (
            b.denoiser(latents, torch.tensor([500.0]), context, torch.tensor([24.0]))
            for b in (backbone, other)
        )
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("alpha", "said", "name", "kind"),
    [(16.0, "alpha 16, ", "x.pt", "torch"), (8.0, "alpha 8, ", "x.safetensors", "safetensors")],
)
def test_a_conversion_says_where_the_alpha_went(backbone, tmp_path, monkeypatch, alpha, said, name, kind):
    from vader_core.cli.lora import converted
    from vader_core.registry import load_registry

    adapter = trained_adapter(backbone, alpha=alpha)
    monkeypatch.setattr("vader_core.run.adapters.find_adapter", lambda source, registry: adapter)
    told = converted("run", tmp_path / name, "videocrafter", overwrite=False, registry=load_registry())
    assert kind_of(tmp_path / name) == kind  # the ending says what is in it
    assert f"rank 4, {said}" in told
    assert ("the format has alpha 8, so the file's matrices carry the rest" in told) is (alpha != 8)


@pytest.mark.parametrize("rank", [8, 16])
def test_the_scaling_is_eight_over_the_rank(rank):
    tensors = {
        f"{PREFIX}m.to_q.lora_A.weight": torch.ones(rank, 3),
        f"{PREFIX}m.to_q.lora_B.weight": torch.ones(5, rank),
    }
    adapter = from_official(tensors)
    assert adapter.alpha / adapter.rank == 8 / rank


def broken() -> dict[str, tuple[dict[str, torch.Tensor], str]]:
    a, b = torch.ones(2, 3), torch.ones(3, 2)
    key = f"{PREFIX}m.to_q.lora_"
    return {
        "empty": ({}, "no tensors"),
        "foreign": ({"unet.m.to_q.lora_A.weight": a}, "not a VideoCrafter LoRA tensor"),
        "half": ({f"{key}A.weight": a}, "no counterpart"),
        "ranks": (
            {
                f"{key}A.weight": a,
                f"{key}B.weight": b,
                f"{PREFIX}n.to_k.lora_A.weight": torch.ones(4, 3),
                f"{PREFIX}n.to_k.lora_B.weight": torch.ones(3, 4),
            },
            r"found ranks \[2, 4\]",
        ),
    }


@pytest.mark.parametrize("case", broken())
def test_what_is_no_such_file_is_refused(case):
    tensors, message = broken()[case]
    with pytest.raises(VaderError, match=message):
        from_official(tensors)


def test_modules_that_the_official_loader_ignores_are_refused():
    adapter = Adapter(
        {"m.proj_in.lora_A.weight": torch.ones(2, 3), "m.proj_in.lora_B.weight": torch.ones(3, 2)}, 2, 8.0
    )
    with pytest.raises(VaderError, match=r"2 other tensors: m\.proj_in"):
        to_official(adapter)
    with pytest.raises(VaderError, match="empty"):
        to_official(Adapter({}, 2, 8.0))


def test_other_files_are_not_recognised(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "text.pt").write_text("not a torch file")
    (tmp_path / "lora.safetensors").write_bytes(b"")
    for name in ("other.pt", "list.pt", "text.pt", "lora.safetensors", "missing.pt"):
        assert not FORMAT.recognises(tmp_path / name)
