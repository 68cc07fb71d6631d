"""Video files: what is written is read back, and what cannot be read is said."""

from __future__ import annotations

import av
import pytest
import torch
from PIL import Image

from vader_core.errors import MachineError, VaderError
from vader_core.video import contact_sheet, read_video, write_video


def clip(frames=6, height=48, width=64):
    """A square that moves over a coloured slope: smooth enough that H.264 keeps it."""
    rows = torch.linspace(0, 1, height).view(1, 1, height, 1).expand(frames, 1, height, width)
    columns = torch.linspace(0, 1, width).view(1, 1, 1, width).expand(frames, 1, height, width)
    video = torch.cat([rows, columns, 1 - rows], dim=1).clone()
    for index in range(frames):
        video[index, :, 8:24, 8 + 4 * index : 24 + 4 * index] = torch.tensor([0.9, 0.1, 0.2]).view(3, 1, 1)
    return video


def test_what_is_written_is_read_back(tmp_path):
    video = clip()
    path = tmp_path / "made" / "a.mp4"
    write_video(video, path, 8)
    read = read_video(path)
    assert read.shape == video.shape
    assert read.dtype == torch.float32
    assert float((read - video).abs().mean()) < 0.015
    assert [found.name for found in path.parent.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("colour", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (0.2, 0.5, 0.8)])
def test_colours_survive(tmp_path, colour):
    video = torch.tensor(colour).float().view(1, 3, 1, 1).expand(3, 3, 32, 32)
    write_video(video, tmp_path / "a.mp4", 8)
    assert float((read_video(tmp_path / "a.mp4") - video).abs().max()) < 0.03


def test_a_browser_can_play_it(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(clip(), path, 7.5)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert float(stream.average_rate) == 7.5
        assert stream.codec_context.colorspace == 1
        assert stream.frames == 6
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_odd_sizes_are_padded(tmp_path):
    video = clip(1, 33, 47)
    write_video(video, tmp_path / "a.mp4", 8)
    read = read_video(tmp_path / "a.mp4")
    assert read.shape == (1, 3, 34, 48)
    assert float((read[:, :, :33, :47] - video).abs().mean()) < 0.02


def test_values_outside_are_clamped_and_graphs_are_left(tmp_path):
    video = (clip() * 3 - 1).requires_grad_()
    write_video(video, tmp_path / "a.mp4", 8)
    assert float((read_video(tmp_path / "a.mp4") - video.detach().clamp(0, 1)).abs().mean()) < 0.02


@pytest.mark.parametrize(
    ("shape", "fps"),
    [
        ((3, 8, 8), 8),
        ((2, 1, 8, 8), 8),
        ((0, 3, 8, 8), 8),
        ((2, 3, 8, 8), 0),
        ((2, 3, 8, 8), 1e-9),
        ((2, 3, 8, 8), 1e19),
    ],
)
def test_what_is_no_video_is_refused(tmp_path, shape, fps):
    with pytest.raises(VaderError):
        write_video(torch.zeros(shape), tmp_path / "a.mp4", fps)


def test_a_folder_that_cannot_be_written_is_the_machines_failure(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(av, "open", full)
    with pytest.raises(MachineError, match="No space left"):
        write_video(clip(), tmp_path / "a.mp4", 8)
    assert list(tmp_path.iterdir()) == []


def pictures(video):
    return [Image.fromarray((frame.permute(1, 2, 0) * 255).round().byte().numpy()) for frame in video]


def test_pictures_and_folders(tmp_path):
    frames = pictures(clip(3))
    exact = (clip(3) * 255).round() / 255
    frames[0].save(tmp_path / "a.png")
    assert torch.equal(read_video(tmp_path / "a.png"), exact[:1])
    folder = tmp_path / "folder"
    folder.mkdir()
    for index, frame in enumerate(frames):
        frame.save(folder / f"{index:03d}.png")
    (folder / "notes.txt").write_text("not a picture")
    assert torch.equal(read_video(folder), exact)
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100)
    gif = read_video(tmp_path / "a.gif")
    assert gif.shape == exact.shape
    assert float((gif - exact).abs().mean()) < 0.05
    frames[0].resize((10, 10)).save(folder / "003.png")
    with pytest.raises(VaderError, match=r"003\.png is 10x10, but 000\.png is 48x64"):
        read_video(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.mp4", b"not a video", "is not read, or its content is another"),
        ("a.gif", b"not a picture", "its content is another"),
        ("b.mp4", b"\0\0\0\x18ftypmp42" + bytes(40), "cannot be read"),
        ("a.png", b"\x89PNG\r\n\x1a\n", "cannot be read"),
        ("a.txt", b"text", "'.txt' is not read"),
    ],
)
def test_unreadable_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VaderError, match=message) as caught:
        read_video(tmp_path / name)
    assert name in str(caught.value)


def test_a_torn_video_is_named(tmp_path):
    write_video(clip(), tmp_path / "a.mp4", 8)
    content = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "b.mp4").write_bytes(content[:200])
    with pytest.raises(VaderError, match=r"b\.mp4"):
        read_video(tmp_path / "b.mp4")


def test_nothing_there(tmp_path):
    with pytest.raises(VaderError, match="no such file"):
        read_video(tmp_path / "absent.mp4")
    (tmp_path / "empty").mkdir()
    with pytest.raises(VaderError, match="no picture"):
        read_video(tmp_path / "empty")


def test_a_contact_sheet_has_a_row_a_video(tmp_path):
    path = tmp_path / "made" / "sheet.png"
    long = "a red square that moves over a slope of many colours " * 4
    contact_sheet([clip(), clip(12, 20, 20), clip(1, 300, 200)], ["one", long, ""], path)
    with Image.open(path) as sheet:
        sheet.load()
        assert sheet.mode == "RGB"
        assert sheet.width == 8 * (20 * 6 + 4) - 4 + 24
        assert sheet.getpixel((12 + 15 * 2, 12 + 15 * 2)) == (230, 26, 51)
    with pytest.raises(VaderError, match="2 videos, but 1 captions"):
        contact_sheet([clip(), clip()], ["one"], path)
