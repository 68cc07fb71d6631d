"""Weights by name, and options for random ones."""

from __future__ import annotations

from pathlib import Path

from vader_core.weights import with_random_weights


def test_random_weights_keep_the_rest_of_the_options(tmp_path: Path) -> None:
    from pydantic import BaseModel

    class Inner(BaseModel):
        weights: str = "pretrained"
        head_weights: str | None = None

    class Options(BaseModel):
        weights: str = "pretrained"
        architecture: str | None = None
        inner: Inner = Inner()

    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text("{}")
    found = with_random_weights(Options, {"weights": str(tmp_path), "inner": {"head_weights": "x"}})
    assert found == {
        "weights": "random",
        "architecture": str(tmp_path),
        "inner": {"weights": "random", "head_weights": "random"},
    }
