"""The drawn pictures, and the prompt source that hands them out."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from vader_svd.demo_images import HELD_OUT, TRAINING, DemoImages, default_folder, render
from vader_svd.options import DemoImagesConfig

from vader_core.testing.prompt_sources import prompt_source_clauses, prompt_source_subject

SCENES = TRAINING + HELD_OUT


@pytest.mark.parametrize("clause", prompt_source_clauses(), ids=str)
def test_contract(clause, tmp_path):
    clause.examine(
        prompt_source_subject("svd_demo_images", {"folder": str(tmp_path), "height": 32, "width": 48})
    )


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_a_drawing_is_the_same_at_every_size(scene):
    small, large = render(scene, 45, 80), render(scene, 180, 320)
    again = np.asarray(render(scene, 45, 80))
    assert np.array_equal(np.asarray(small), again)
    shrunk = large.resize((80, 45), resample=Image.Resampling.BOX)
    difference = np.abs(np.asarray(shrunk, dtype=float) - again).mean()
    assert difference < 6
    assert again.std() > 15


def test_no_two_drawings_are_alike():
    pixels = [np.asarray(render(scene, 36, 64), dtype=float) for scene in SCENES]
    for index, one in enumerate(pixels):
        for other in pixels[:index]:
            assert np.abs(one - other).mean() > 20


def test_files_are_written_once_and_read_back(tmp_path):
    source = DemoImages(DemoImagesConfig(folder=tmp_path, height=32, width=64))
    (prompt,) = source.draw([4])
    written = prompt.image.stat().st_mtime_ns
    assert source.draw([4])[0] == prompt
    assert prompt.image.stat().st_mtime_ns == written
    scene = next(scene for scene in TRAINING if scene.text == prompt.text)
    assert np.array_equal(np.asarray(Image.open(prompt.image)), np.asarray(render(scene, 32, 64)))


def test_held_out_pictures_are_not_trained_on(tmp_path):
    source = DemoImages(DemoImagesConfig(folder=tmp_path, height=32, width=64))
    trained = {prompt.text for prompt in source.draw(range(3 * len(TRAINING)))}
    assert trained == {scene.text for scene in TRAINING}
    assert not trained & {prompt.text for prompt in source.all()}


def test_the_cache_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "vader" / "svd_demo_images"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_folder() == tmp_path / "home" / ".cache" / "vader" / "svd_demo_images"
