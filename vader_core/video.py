"""Video files: written, read, and laid out as a contact sheet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from vader_core.clips import BT709, LIMITED_RANGE, container_of, decode
from vader_core.errors import VaderError
from vader_core.files import replacing
from vader_core.paths import entered
from vader_core.pictures import PICTURES, first_bytes, pictures_in, read_animation, read_picture, sniffed

if TYPE_CHECKING:
    from PIL.Image import Image

# x264's constant rate factor: visually lossless
_QUALITY = "14"


def write_video(
    video: Float[Tensor, "f 3 H W"], path: Path, fps: float, tags: Mapping[str, str] | None = None
) -> None:
    """Write an mp4 that every browser plays (H.264, yuv420p, BT.709, index first).

    Args:
        video: RGB in [0, 1]; clamped here. Odd sizes are padded to even ones by repeating the last row or
            column.
        path: Where to; written beside it and renamed into place. Its folder is made.
        fps: Frames per second, as :func:`frame_rate` takes them.
        tags: The file's own words about itself, by mp4's names: ``title``, ``comment``.

    Raises:
        VaderError: Not a video, or a rate that no file holds.
        MachineError: It cannot be written.
    """
    import av

    if video.ndim != 4 or video.shape[1] != 3 or not video.shape[0]:
        raise VaderError(f"{path}: a video is [F, 3, H, W] with F of 1 or more, not {tuple(video.shape)}")
    rate = frame_rate(fps, f"{path}: ")
    pixels = _even(_bytes(video)).permute(0, 2, 3, 1).contiguous().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        replacing(path) as beside,
        # absolute: FFmpeg takes a relative 12:30:05 for a protocol
        av.open(str(beside.absolute()), "w", format="mp4", options={"movflags": "faststart"}) as container,
    ):
        container.metadata.update(tags or {})
        stream = container.add_stream("libx264", rate=rate, options={"crf": _QUALITY, "preset": "medium"})
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED_RANGE
        for picture in pixels:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace=BT709)))
        container.mux(stream.encode())


def frame_rate(fps: float, where: str = "") -> Fraction:
    """Frames per second as a clip's file holds them: a fraction of a 32-bit number by at most 1001.

    Raises:
        VaderError: No such fraction is near; ``where`` is put before.
    """
    if not 1 / 1001 <= fps < 2**31:
        raise VaderError(f"{where}fps={fps:g} is not allowed: use a number from 0.001 to 2147483647")
    return Fraction(fps).limit_denominator(1001)


def read_video(path: Path) -> Float[Tensor, "f 3 H W"]:
    """Read a video file, an animated or a still picture, or a folder of pictures in the order of their names.

    Returns:
        RGB in [0, 1], float32, on the CPU.

    Raises:
        VaderError: Nothing there, nothing to decode, or pictures of different sizes.
    """
    frames = list(_frames(entered(path)))
    return as_video(frames)


def count_frames(path: Path) -> int:
    """How many frames :func:`read_video` gives; all are decoded, one is held.

    Raises:
        VaderError: As for :func:`read_video`.
    """
    return sum(1 for _ in _frames(entered(path)))


def read_frames(path: Path, indices: Sequence[int]) -> Float[Tensor, "n 3 H W"]:
    """The frames of :func:`read_video` at ``indices`` alone, ascending and distinct.

    Decoding ends at the last; only those asked for are held.

    Raises:
        VaderError: As for :func:`read_video`, or there are fewer frames.
    """
    wanted, held = set(indices), []
    for index, frame in enumerate(_frames(entered(path))):
        if index in wanted:
            held.append(frame)
        if len(held) == len(wanted):
            return as_video(held)
    raise VaderError(f"video {path}: it has no frame {max(wanted, default=0)}")


def as_video(frames: Sequence[Tensor]) -> Float[Tensor, "f 3 H W"]:
    """Frames [H, W, 3] uint8 as a video in [0, 1], float32."""
    return torch.stack(list(frames)).permute(0, 3, 1, 2).float() / 255.0


def _frames(path: Path) -> Iterator[Tensor]:
    """Every frame as [H, W, 3] uint8, one after the other, by the file's content."""
    if path.is_dir():
        yield from _read_folder(path)
        return
    start, empty = first_bytes(path, what="video"), True
    if container_of(start) is not None:
        found: Iterator[Tensor] = (torch.from_numpy(frame) for frame in decode(path))
    elif sniffed(start) is not None:
        found = (_pixels(frame) for frame in read_animation(path))
    else:
        raise VaderError(
            f"video {path}: {path.suffix!r} is not read, or its content is another; allowed are mp4, mov, "
            f"webm, mkv, avi, gif, {', '.join(PICTURES)}, and a folder of pictures"
        )
    for frame in found:
        empty = False
        yield frame
    if empty:
        raise VaderError(f"video {path}: it holds no frames")


def contact_sheet(
    videos: Sequence[Float[Tensor, "f 3 H W"]], captions: Sequence[str], path: Path, *, columns: int = 8
) -> None:
    """Write a PNG with a row per video: frames evenly spread over it, the caption below.

    Args:
        videos: RGB in [0, 1]; clamped here. Sizes may differ.
        captions: One a video.
        path: Where to; written beside it and renamed into place. Its folder is made.
        columns: At most so many frames per video.

    Raises:
        VaderError: Not one caption a video.
    """
    from PIL import Image

    if len(videos) != len(captions):
        raise VaderError(f"{path}: {len(videos)} videos, but {len(captions)} captions")
    rows = [_row(video, caption, columns) for video, caption in zip(videos, captions, strict=True)]
    gap = 12
    width = max((row.width for row in rows), default=1) + 2 * gap
    height = sum(row.height + gap for row in rows) + gap
    sheet = Image.new("RGB", (width, height), "white")
    top = gap
    for row in rows:
        sheet.paste(row, (gap, top))
        top += row.height + gap
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        sheet.save(beside, format="PNG")


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` positions, evenly spread, the first and the last among them.

    >>> spread(9, 3)
    [0, 4, 8]
    >>> spread(2, 8)
    [0, 1]
    """
    if most >= count:
        return list(range(count))
    if most == 1:
        return [0]
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def _bytes(video: Tensor) -> Tensor:
    held = video.detach().float().cpu()
    return held.nan_to_num().clamp(0, 1).mul(255.0).round().to(torch.uint8)


def _even(pixels: Tensor) -> Tensor:
    if pixels.shape[2] % 2:
        pixels = torch.cat([pixels, pixels[:, :, -1:]], dim=2)
    if pixels.shape[3] % 2:
        pixels = torch.cat([pixels, pixels[:, :, :, -1:]], dim=3)
    return pixels


def _read_folder(path: Path) -> Iterator[Tensor]:
    pictures = pictures_in(path)
    if not pictures:
        raise VaderError(f"video {path}: there is no picture in this folder ({', '.join(PICTURES)})")
    first = None
    for picture in pictures:
        frame = _pixels(read_picture(picture))
        first = frame if first is None else first
        if frame.shape != first.shape:
            raise VaderError(
                f"video {path}: {picture.name} is {_size(frame)}, but {pictures[0].name} is "
                f"{_size(first)}; the frames of a video have one size"
            )
        yield frame


def _size(frame: Tensor) -> str:
    return f"{frame.shape[0]}x{frame.shape[1]}"


def _pixels(picture: Image) -> Tensor:
    flat = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return flat.view(picture.height, picture.width, 3)


def _row(video: Tensor, caption: str, columns: int) -> Image:
    from PIL import Image, ImageDraw, ImageFont

    pixels = _bytes(video[spread(len(video), columns)]).permute(0, 2, 3, 1).contiguous()
    height, width = pixels.shape[1:3]
    enlarged = max(1, 128 // max(height, width))
    size = (width * enlarged, height * enlarged)
    gap, margin = 4, 4
    font: Any = ImageFont.load_default(14)
    room = len(pixels) * (size[0] + gap) - gap
    lines = _wrapped(caption, font, max(room, 200))
    line_height = 18
    row = Image.new("RGB", (max(room, 200), size[1] + margin + line_height * len(lines)), "white")
    for index, frame in enumerate(pixels):
        picture = Image.fromarray(frame.numpy()).resize(size, Image.Resampling.NEAREST)
        row.paste(picture, (index * (size[0] + gap), 0))
    draw = ImageDraw.Draw(row)
    for index, line in enumerate(lines):
        draw.text((0, size[1] + margin + index * line_height), line, fill="#303030", font=font)
    return row


def _wrapped(text: str, font: Any, room: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
