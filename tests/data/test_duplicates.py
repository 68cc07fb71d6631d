"""Clips that are the same, however they were scaled, encoded or lit; and clips that are not."""

from __future__ import annotations

import footage
import numpy as np
import pytest
from vader_data.components import component
from vader_data.contracts import Clip
from vader_data.duplicates import dedup
from vader_data.hashing import BITS, clip_hash, distance
from vader_data.manifest import new_row
from vader_data.plan import DuplicatePlan


def row(name, frames=50, width=160, **values):
    size = {"width": width, "height": width * 3 // 5}
    return new_row(id=name, type="video", num_frames=frames, **size, **values)


def flipped(value, bits):
    number = int(value, 16)
    for bit in bits:
        number ^= 1 << int(bit)
    return f"{number:048x}"


def test_a_hash_survives_size_encoding_and_light(tmp_path):
    import cv2
    from vader_data.reading import read_frames

    frames = footage.panning(3, height=192, width=320, contrast=110)
    base = clip_hash(frames)
    assert len(base) == BITS // 4
    small = np.stack([cv2.resize(frame, (160, 96), interpolation=cv2.INTER_AREA) for frame in frames])
    bright = (frames * 0.8 + 30).astype(np.uint8)
    coded = read_frames(footage.write(tmp_path / "x.mp4", frames, crf=30), [0, 1, 2])
    for other in (small, bright, coded):
        assert distance(base, clip_hash(other)) <= 9
    assert distance(base, clip_hash(footage.panning(3, height=192, width=320, seed=1, contrast=110))) > 40


def test_the_better_clip_is_kept():
    value = "0123456789abcdef" * 3
    rows = [
        row("short", phash=value),
        row("large", width=320, phash=flipped(value, [3, 90])),
        row("long", frames=60, phash=flipped(value, [7])),
        row("other", phash=flipped(value, range(0, 60))),
    ]
    found = dedup(rows, DuplicatePlan(distance=9))
    assert [one["duplicate_of"] for one in found] == ["large", None, "large", None]
    assert found[0]["reject_reason"] == "the same as large (2 of 192 bits differ)"
    assert found[0]["reject_stage"] == "dedup"


@pytest.mark.parametrize("limit", [0, 1, 5, 9, 30])
def test_bands_find_what_comparing_all_pairs_finds(limit):
    rng = np.random.default_rng(limit)
    values = [f"{int.from_bytes(rng.bytes(24)):048x}" for _ in range(20)]
    values += [
        flipped(values[place % 20], rng.choice(BITS, rng.integers(0, 2 * limit + 2), replace=False))
        for place in range(60)
    ]
    rows = [row(str(place), phash=value) for place, value in enumerate(values)]
    found = dedup(rows, DuplicatePlan(distance=limit))
    kept: list[int] = []
    for place, value in enumerate(values):
        near = any(distance(value, values[other]) <= limit for other in kept)
        assert bool(found[place]["duplicate_of"]) is near
        if not near:
            kept.append(place)
    assert limit == 0 or len(kept) < len(values)


def test_a_chain_of_small_differences_does_not_make_two_clips_the_same():
    value = "0" * 48
    rows = [row(str(step), phash=flipped(value, range(8 * step))) for step in range(3)]
    assert [one["duplicate_of"] for one in dedup(rows, DuplicatePlan(distance=9))] == [None, "0", None]


def test_embeddings_find_what_the_hash_lets_pass(tmp_path):
    embedder = component("embedder", "thumbnail").make({})
    frames = footage.panning(20, contrast=110)
    mirrored = frames[:, :, ::-1].copy()
    shifted = np.roll(frames, 2, axis=2)
    indices = embedder.indices(20, 25.0)
    clips = [
        Clip(str(n), one[indices], tuple(indices), 20, 25.0)
        for n, one in enumerate((frames, shifted, mirrored))
    ]
    vectors = embedder.embed(clips)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0)
    rows = [
        row(str(n), phash=flipped("0" * 48, range(64 * n, 64 * n + 30)), embedding=vector.tolist())
        for n, vector in enumerate(vectors)
    ]
    found = dedup(rows, DuplicatePlan(distance=9, embedder="thumbnail", cosine=0.8))
    assert [one["duplicate_of"] for one in found] == [None, "0", None]
    assert "cosine" in found[1]["reject_reason"]


def test_embeddings_in_blocks_are_embeddings_at_once(monkeypatch):
    from vader_data import duplicates

    rng = np.random.default_rng(0)
    centres = rng.normal(size=(9, 8))
    vectors = np.concatenate([centres + 0.15 * rng.normal(size=(9, 8)) for _ in range(6)])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = [row(str(n), phash=f"{n:048x}", embedding=vector.tolist()) for n, vector in enumerate(vectors)]
    plan = DuplicatePlan(distance=None, embedder="thumbnail", cosine=0.9)
    whole = dedup(rows, plan)
    monkeypatch.setattr(duplicates, "_BLOCK", 7)
    assert dedup(rows, plan) == whole
    assert 9 <= sum(not one["duplicate_of"] for one in whole) < 54


def test_a_models_features(tmp_path):
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = CLIPModel(
            CLIPConfig(
                text_config={**small, "vocab_size": 50},
                vision_config={**small, "image_size": 32, "patch_size": 16},
                projection_dim=16,
            )
        )
    model.save_pretrained(tmp_path)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        tmp_path
    )
    embedder = component("embedder", "clip").make({"weights": str(tmp_path), "device": "cpu"})
    frames = [footage.panning(3, seed=seed) for seed in (0, 0, 1)]
    found = embedder.embed([Clip("", one, (0, 1, 2), 3, 25.0) for one in frames])
    assert found.shape == (3, 16)
    assert found[0] @ found[1] == pytest.approx(1.0, abs=1e-5)
    assert found[0] @ found[2] < 0.9999


def test_rejected_clips_and_images_are_left_alone():
    value = "0" * 48
    rows = [
        row("a", phash=value),
        {**row("b", phash=value), "reject_reason": "too dull"},
        {**row("c", phash=value), "type": "image"},
    ]
    assert dedup(rows, DuplicatePlan()) == rows
    assert dedup([rows[0], row("d", phash=value)], DuplicatePlan(distance=None))[1]["duplicate_of"] is None
