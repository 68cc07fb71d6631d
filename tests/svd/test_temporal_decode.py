"""Which frames are decoded together, and that they come back in place."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from vader_svd.temporal_decode import chunks, decode_runs, windows


@given(st.data())
def test_every_frame_has_its_neighbours(data):
    count = data.draw(st.integers(1, 30))
    frames = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=6))
    neighbours = data.draw(st.integers(0, 8))
    runs = windows(frames, count, neighbours)
    covered = [frame for run in runs for frame in run]
    assert covered == sorted(set(covered))
    assert set(covered) <= set(range(count))
    for frame in frames:
        for near in range(max(frame - neighbours, 0), min(frame + neighbours, count - 1) + 1):
            assert any(frame in run and near in run for run in runs)
    assert all(len(run) >= min(2 * neighbours + 1, count) for run in runs)


def test_the_ends_of_the_video_get_a_whole_window():
    assert windows([13], 14, 2) == [range(9, 14)]
    assert windows([0], 14, 20) == [range(14)]


@given(st.integers(1, 30), st.integers(1, 30))
def test_chunks_cover_every_frame_once(count, size):
    assert [frame for run in chunks(count, size) for frame in run] == list(range(count))


def test_runs_keep_samples_and_frames_apart():
    calls = []

    def decode_chunk(latents, num_frames):
        calls.append((tuple(latents.shape), num_frames))
        return latents.repeat(1, 3, 1, 1)

    latents = torch.arange(20.0).view(2, 10, 1, 1, 1)
    pixels = decode_runs(latents, [range(0, 3), range(4, 7), range(8, 10)], decode_chunk)
    assert sorted(pixels) == [0, 1, 2, 4, 5, 6, 8, 9]
    for frame, found in pixels.items():
        assert found[:, 0, 0, 0].tolist() == [frame, 10 + frame]
    # Two runs of three frames for two samples go together.
    assert calls == [((4, 1, 1, 1), 2), ((12, 1, 1, 1), 3)]
