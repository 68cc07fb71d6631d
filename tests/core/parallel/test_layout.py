"""How processes are laid out, and what is refused before anything is loaded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vader_core.assembly.parallel import check_rewards_cut, cut_text_encoders
from vader_core.errors import VaderError
from vader_core.method.mixture import Mixture, Term
from vader_core.parallel.context import shared_out
from vader_core.parallel.layout import Layout, started_together
from vader_core.testing.tiny import BrightnessReward

TINY = ["train", "--backbone", "tiny", "--reward", "brightness", "--prompts", "fixed", "--device", "cpu"]
WAN = ["train", "--backbone", "wan", "-o", "backbone.architecture=tiny", "--weights", "random"]
WAN += ["--reward", "brightness", "--prompts", "fixed", "--device", "cpu"]


def test_neighbours_share_a_sequence():
    layout = Layout(world=4, context=2)
    assert [layout.data_rank(rank) for rank in range(4)] == [0, 0, 1, 1]
    assert layout.data == 2


@pytest.mark.parametrize("name", ["shard", "context"])
def test_what_does_not_divide_is_refused_with_what_does(name):
    with pytest.raises(VaderError, match=rf"parallel.{name}=3 .* use 1 or 2 or 4"):
        Layout(4, **{name: 3}).check()


def test_a_global_batch_that_does_not_divide_is_refused():
    with pytest.raises(VaderError, match="a multiple of 6"):
        Layout(3).accumulate(1, 2, 8)
    with pytest.raises(VaderError, match="leave one out"):
        Layout(3).accumulate(2, 2, 12)
    assert Layout(4, context=2).accumulate(1, 2, 12) == 3


@pytest.mark.parametrize("count", ["two", "0", "-1"])
def test_a_world_size_that_is_no_number_is_refused(count):
    with pytest.raises(VaderError, match="WORLD_SIZE"):
        started_together({"WORLD_SIZE": count})


@pytest.mark.parametrize("world", [1, 2, 3, 5, 8])
def test_every_wanted_frame_is_decoded_once(world):
    frames = [9, 2, 4, 7, 1]
    shares, places = shared_out(frames, world)
    assert len({len(share) for share in shares}) == 1
    every = [frame for share in shares for frame in share]
    assert [every[place] for place in places] == frames


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([*TINY, "-o", "parallel.shard=2", "-o", "performance.channels_last=true"], "cannot be cut"),
        ([*TINY, "-o", "parallel.keep_gathered=true"], "no effect without parallel.shard"),
        ([*TINY, "-o", "parallel.shard_rewards=true"], "no effect without parallel.shard"),
        ([*TINY, "-o", "parallel.context=2"], "cannot split its sequence"),
        ([*TINY, "-o", "parallel.shard=0"], "greater than or equal to 1"),
        ([*WAN, "-o", "parallel.context=2", "-o", "lora.dropout=0.1"], "lora.dropout is drawn"),
        ([*WAN, "-o", "parallel.context=3"], "attention heads"),
        (
            [*TINY, "-o", "parallel.shard=2", "-o", "performance.offload=true",
             "-o", "parallel.shard_rewards=true"],
            "performance.offload moves the rewards",
        ),
    ],
)  # fmt: skip
def test_what_cannot_work_together_is_refused_by_name(vader, tmp_path, capsys, words, told):
    assert vader(*words, "--out", tmp_path / "run") == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_changes_nothing_is_refused():
    rewards: Any = SimpleNamespace(
        rewards=Mixture((Term("brightness", BrightnessReward()),)), monitors=Mixture(())
    )
    with pytest.raises(VaderError, match="none of the rewards and monitors has layers"):
        check_rewards_cut(rewards)

    def texts(weights: str) -> Any:
        section = SimpleNamespace(name="opensora", options={"weights": weights})
        return SimpleNamespace(
            backbone=SimpleNamespace(modules=dict), config=SimpleNamespace(backbone=section)
        )

    mesh: Any = SimpleNamespace(weights=None)
    with pytest.raises(VaderError, match="backbone 'opensora' has no text encoder at hand"):
        cut_text_encoders(texts("pretrained"), mesh)
    cut_text_encoders(texts("random"), mesh)  # its texts are numbers that depend on the words alone
