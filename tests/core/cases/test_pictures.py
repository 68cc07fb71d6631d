"""Pictures and clips as phones, scanners and other programs write them: read as a person sees them."""

import io
import os
import struct
import zlib
from contextlib import suppress

import numpy
import pytest
import torch
from PIL import Image, ImageOps, PngImagePlugin

from vader_core.errors import VaderError
from vader_core.pictures import pictures_in, read_picture
from vader_core.video import count_frames, read_frames, read_video, write_video


def patches():
    """12 wide, 8 high, a colour of its own in every corner."""
    pixels = numpy.zeros((8, 12, 3), numpy.uint8)
    pixels[:4, :6], pixels[:4, 6:] = (255, 0, 0), (0, 255, 0)
    pixels[4:, :6], pixels[4:, 6:] = (0, 0, 255), (255, 255, 0)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_a_picture_is_turned_upright(tmp_path, orientation, ending):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{ending}"
    patches().save(path, exif=exif, **({} if ending == "png" else {"quality": 100}))
    # what lies in the file is the upright picture turned; Pillow's own transposition is the reference
    stored = Image.open(path).copy()
    wanted = ImageOps.exif_transpose(stored).convert("RGB")
    found = read_picture(path)
    assert found.size == ((8, 12) if orientation >= 5 else (12, 8))
    assert numpy.array_equal(numpy.asarray(found), numpy.asarray(wanted))
    assert read_video(path).shape[-2:] == (found.height, found.width)


def test_a_phones_photo_has_its_top_on_top(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the left column of the file, from below, is the top row
    patches().save(tmp_path / "a.png", exif=exif)
    upright = numpy.asarray(read_picture(tmp_path / "a.png"))
    assert tuple(upright[0, 0]) == (0, 0, 255)
    assert tuple(upright[0, -1]) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA"])
def test_hidden_colours_are_white(tmp_path, mode, recwarn):
    path = tmp_path / "a.png"
    if mode == "P":
        picture = Image.new("P", (4, 2), 0)
        picture.putpalette([9, 200, 77, 0, 255, 0])
        picture.putpixel((0, 0), 1)
        picture.save(path, transparency=b"\x00\xff")
        seen = (0, 255, 0)
    else:
        picture = Image.new(mode, (4, 2), (9, 200, 77, 0) if mode == "RGBA" else (9, 0))
        picture.putpixel((0, 0), (0, 255, 0, 255) if mode == "RGBA" else (60, 255))
        picture.save(path)
        seen = (0, 255, 0) if mode == "RGBA" else (60, 60, 60)
    found = read_picture(path)
    assert found.getpixel((0, 0)) == seen
    assert found.getpixel((3, 1)) == (255, 255, 255)
    assert not recwarn.list


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    ramp = numpy.linspace(0, 65535, 512).astype(numpy.uint16)[None].repeat(2, 0)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    found = read_video(tmp_path / "a.png")[0, 0, 0]
    torch.testing.assert_close(found, torch.linspace(0, 1, 512), atol=1 / 255, rtol=0)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def test_sixteen_bit_colour_is_scaled(tmp_path):
    row = b"\0" + struct.pack(">6H", 65535, 32896, 0, 0, 32896, 65535)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(row)), chunk(b"IEND", b"")]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    found = read_picture(tmp_path / "a.png")
    assert [found.getpixel((x, 0)) for x in (0, 1)] == [(255, 128, 0), (0, 128, 255)]


def test_folders_are_counted_as_people_count_and_hidden_files_are_none(tmp_path):
    for number in (10, 9, 1, 2, 100):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "._1.png").write_bytes(b"\0\5\26\7")
    (tmp_path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    assert [path.name for path in pictures_in(tmp_path)] == [f"{n}.png" for n in (1, 2, 9, 10, 100)]
    video = read_video(tmp_path)
    assert (video[:, 0, 0, 0] * 255).round().tolist() == [1, 2, 9, 10, 100]


def test_megabytes_of_text_in_a_picture_are_passed_over(tmp_path):
    notes = PngImagePlugin.PngInfo()
    notes.add_text("workflow", "x" * 3_000_000, zip=True)
    patches().save(tmp_path / "a.png", pnginfo=notes)
    assert read_picture(tmp_path / "a.png").getpixel((0, 0)) == (255, 0, 0)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, recwarn):
    for name, side in (("a.png", 9_600), ("b.png", 15_000)):
        Image.new("1", (side, side)).save(tmp_path / name)
        with pytest.raises(VaderError, match=rf"{name}.*more than 89,478,485 pixels"):
            read_picture(tmp_path / name)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"),
        ("a.jpg", b"II*\0\x08\0\0\0"),
        ("a.mp4", b"ffconcat version 1.0\nfile '/etc/hostname'\n"),
        ("a.mkv", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n"),
        ("a.avi", b"<?xml version='1.0'?><svg/>"),
        ("a.png", b""),
    ],
)
def test_only_the_named_formats_are_opened(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VaderError, match=name):
        read_video(tmp_path / name)


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    for path in (tmp_path / "a.png", "/dev/zero"):
        with pytest.raises(VaderError, match="not a regular file"):
            read_video(path)


def test_damaged_pictures_are_one_message(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP"):
        stream = io.BytesIO()
        patches().save(stream, kind)
        content = stream.getvalue()
        for _ in range(40):
            place, value = (int(torch.randint(len(content), (1,), generator=generator)) for _ in range(2))
            damaged = content[:place] + bytes([value % 256]) + content[place + 1 :]
            (tmp_path / "a").write_bytes(damaged if value % 3 else damaged[:place])
            with suppress(VaderError):  # anything else is a traceback
                read_video(tmp_path / "a")


def clip(frames=4):
    values = torch.linspace(0.1, 0.9, frames)
    return values[:, None, None, None].expand(frames, 3, 32, 48)


def test_names_that_look_like_protocols(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from pathlib import Path

    write_video(clip(), Path("12:30:05/12:30.mp4"), 8)
    assert read_video(Path("12:30:05/12:30.mp4")).shape == (4, 3, 32, 48)


def test_only_the_asked_frames_are_held(tmp_path):
    write_video(clip(), tmp_path / "a.mp4", 8)
    whole = read_video(tmp_path / "a.mp4")
    assert count_frames(tmp_path / "a.mp4") == 4
    assert torch.equal(read_frames(tmp_path / "a.mp4", [1, 3]), whole[[1, 3]])
    with pytest.raises(VaderError, match="no frame 4"):
        read_frames(tmp_path / "a.mp4", [4])


#: Quarter turns and mirrorings of a display matrix -> the same of an array [H, W, 3].
TURNS = {
    (1, 0, 0, 1): lambda a: a,
    (0, 1, -1, 0): lambda a: numpy.rot90(a, -1),
    (-1, 0, 0, -1): lambda a: numpy.rot90(a, 2),
    (0, -1, 1, 0): lambda a: numpy.rot90(a, 1),
    (-1, 0, 0, 1): lambda a: a[:, ::-1],
    (1, 0, 0, -1): lambda a: a[::-1],
    (0, 1, 1, 0): lambda a: a.swapaxes(0, 1),
    (0, -1, -1, 0): lambda a: a[::-1, ::-1].swapaxes(0, 1),
}


@pytest.mark.parametrize("matrix", TURNS)
def test_a_clip_is_turned_by_its_display_matrix(tmp_path, matrix):
    """The track header's matrix is written into an mp4 as a phone writes it."""
    picture = torch.from_numpy(numpy.asarray(patches().resize((96, 64), 0)).copy()).permute(2, 0, 1) / 255
    write_video(picture[None].expand(3, -1, -1, -1), tmp_path / "a.mp4", 8)
    content = (tmp_path / "a.mp4").read_bytes()
    place = content.index(b"tkhd") + 4 + 40  # version 0: the matrix comes after 40 bytes
    a, b, c, d = matrix
    one = 1 << 16
    turned = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    (tmp_path / "b.mp4").write_bytes(content[:place] + turned + content[place + 36 :])
    plain = (read_video(tmp_path / "a.mp4")[0].permute(1, 2, 0) * 255).byte().numpy()
    found = (read_video(tmp_path / "b.mp4")[0].permute(1, 2, 0) * 255).byte().numpy()
    assert numpy.array_equal(found, TURNS[matrix](plain))


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"\0\0\0\x18ftypavif", "AVIF"),
        (b"II*\0", "TIFF"),
        (b"<svg xmlns=", "SVG"),
        (b"%!PS-Adobe", "PostScript"),
        (b"8BPS", "Photoshop"),
    ],
)
def test_other_pictures_are_said_to_be_what_they_are(tmp_path, start, words):
    (tmp_path / "a.png").write_bytes(start + bytes(100))
    with pytest.raises(VaderError, match=f"{words}.*; save it as PNG or JPEG"):
        read_picture(tmp_path / "a.png")


def test_pictures_that_are_not_read_are_not_passed_over(tmp_path):
    patches().save(tmp_path / "a.png")
    for hidden in ("._b.heic", "Thumbs.db", "notes.txt"):
        (tmp_path / hidden).touch()
    assert [path.name for path in pictures_in(tmp_path)] == ["a.png"]
    (tmp_path / "IMG_1.HEIC").touch()
    with pytest.raises(VaderError, match=r"IMG_1\.HEIC: \.HEIC is a picture that is not read"):
        pictures_in(tmp_path)
