"""Picture files, read as a person sees them: upright, without hidden colours, from named formats only.

A picture's format is found in its first bytes; its name decides nothing. Nothing but the named formats is
opened, and nothing but regular files.
"""

from __future__ import annotations

import io
import re
import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vader_core.archives import archive_of, open_bytes
from vader_core.errors import VaderError

if TYPE_CHECKING:
    from PIL.Image import Image

#: Endings by which pictures are found in a folder.
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
#: Other endings of pictures: a folder with one is not read as if it were not there.
_NOT_READ = (".heic", ".heif", ".avif", ".tif", ".tiff", ".jxl", ".jp2", ".psd", ".svg", ".dng", ".exr")
#: Folders that macOS' archives, Synology and Windows put beside people's files.
_OF_SYSTEMS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN")
#: Pillow's names of the formats that are opened.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
#: Transparent parts are laid over this colour: white, as browsers show them.
GROUND = (255, 255, 255)
#: Larger pictures are refused: their pixels would take gigabytes.
MOST_PIXELS = 89_478_485
#: Larger files are no pictures.
_MOST_BYTES = 1 << 30
_HEIC = "HEIC, as phones write it"
_BRANDS = dict.fromkeys((b"heic", b"heix", b"heif", b"mif1", b"msf1", b"hevc"), _HEIC) | dict.fromkeys(
    (b"avif", b"avis"), "AVIF"
)
_MAGICS = {
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"8BPS": "a Photoshop file",
    b"%!PS": "PostScript",
    b"%PDF": "a PDF",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
}
_PNG = b"\x89PNG\r\n\x1a\n"
#: Parts of a PNG that hold text, of any size once unpacked, and no pixel.
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")


def sniffed(start: bytes) -> str | None:
    """Pillow's name of the picture format that ``start`` begins, or ``None``."""
    if start.startswith(_PNG):
        return "PNG"
    if start.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if start.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return "WEBP"
    return "BMP" if start.startswith(b"BM") else None


def _looks_like(start: bytes) -> str | None:
    """What a picture of another format is."""
    if start[4:8] == b"ftyp":
        brand = start[8:12]
        return (
            {b"avif": "AVIF", b"avis": "AVIF"}.get(brand, "HEIC, as phones write it")
            if brand in _BRANDS
            else None
        )
    words = start.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    if words.startswith((b"<svg", b"<?xml")):
        return "SVG"
    return next((name for magic, name in _MAGICS.items() if start.startswith(magic)), None)


def first_bytes(path: Path, *, what: str = "picture") -> bytes:
    """The first 64 bytes of a regular file.

    Raises:
        VaderError: No such file, not a regular one, or unreadable.
    """
    try:
        if archive_of(path) is None and not stat.S_ISREG(path.stat().st_mode):
            raise VaderError(f"{what} {path}: not a regular file")
        with open_bytes(path) as stream:
            return stream.read(64)
    except FileNotFoundError as error:
        raise VaderError(f"{what} {path}: no such file or folder") from error
    except (OSError, ValueError) as error:
        raise VaderError(f"{what} {path} cannot be read: {error}") from error


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder, in the order in which people count: 2 before 10; hidden files are none.

    Raises:
        VaderError: The folder cannot be read, or holds pictures of a kind that is not.
    """
    try:
        there = [path for path in folder.iterdir() if not is_hidden(Path(path.name))]
    except OSError as error:
        raise VaderError(f"{folder} cannot be read: {error.strerror}") from error
    other = next((path for path in sorted(there) if path.suffix.lower() in _NOT_READ), None)
    if other is not None:
        raise VaderError(
            f"{other}: {other.suffix} is a picture that is not read: save it as PNG or JPEG, or move it away "
            f"(read are {', '.join(PICTURES)})"
        )
    return sorted((path for path in there if path.suffix.lower() in PICTURES), key=natural)


def is_hidden(path: Path) -> bool:
    """Whether a path leads through what systems keep beside people's files: dot files and the like.

    >>> is_hidden(Path("a/._b.jpg")), is_hidden(Path("__MACOSX/b.jpg")), is_hidden(Path("a/b.jpg"))
    (True, True, False)
    """
    return any(part.startswith(".") or part in _OF_SYSTEMS for part in path.parts)


def natural(path: Path) -> tuple[Any, ...]:
    """The key that sorts file names as people count.

    >>> [p.name for p in sorted(map(Path, ["10.png", "2.png", "1.png"]), key=natural)]
    ['1.png', '2.png', '10.png']
    """
    parts = re.split(r"([0-9]+)", path.name)
    return tuple((int(part), len(part)) if i % 2 else part for i, part in enumerate(parts)), path.name


def read_picture(path: Path) -> Image:
    """A picture as RGB, 8 bits a channel: the first frame of an animated one.

    Turned upright by its EXIF orientation; transparent parts over white; 16 bits scaled to 8.

    Raises:
        VaderError: No such file, not a picture of the named formats, damaged, or too large.
    """
    return next(read_animation(path))


def small_copy(path: Path, folder: Path, longest: int = 320) -> str:
    """A copy of a picture as a JPEG of at most ``longest`` pixels a side.

    Args:
        path: The picture.
        folder: Where the copy goes, named by the picture's content; one that is there is left alone.
        longest: Pixels.

    Returns:
        Its name within ``folder``.

    Raises:
        VaderError: As for :func:`read_picture`.
        MachineError: It cannot be written.
    """
    from vader_core.files import replacing, sha256_of

    picture = read_picture(path)
    name = f"pictures/{sha256_of(path)[:16]}.jpg"
    target = folder / name
    if not target.is_file():
        picture.thumbnail((longest, longest))
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as beside:
            picture.save(beside, format="JPEG", quality=85)
    return name


def read_animation(path: Path) -> Iterator[Image]:
    """Every frame of a picture file, one after the other, each as :func:`read_picture` gives it.

    Raises:
        VaderError: As for :func:`read_picture`.
    """
    from PIL import Image, ImageSequence

    start = first_bytes(path)
    kind = sniffed(start)
    if kind is None:
        known = _looks_like(start)
        raise VaderError(
            f"picture {path}: it is none of {', '.join(FORMATS)}, whatever its name says"
            + (f": it is {known}; save it as PNG or JPEG" if known else "")
        )
    with _one_message(path):
        with open_bytes(path) as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise VaderError(f"picture {path}: the file is larger than 1 GiB")
        stream = io.BytesIO(_without_texts(data) if kind == "PNG" else data)
        with Image.open(stream, formats=[kind]) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise VaderError(
                    f"picture {path}: {opened.width}x{opened.height} is more than {MOST_PIXELS:,} pixels: "
                    "make it smaller"
                )
            for frame in ImageSequence.Iterator(opened):
                yield as_seen(frame)


@contextmanager
def _one_message(path: Path) -> Iterator[None]:
    """Whatever Pillow raises on a hostile or damaged file, as one message."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (VaderError, GeneratorExit):
        raise
    except MemoryError as error:
        raise VaderError(f"picture {path}: it needs more memory than there is") from error
    except Exception as error:  # Pillow raises anything on damaged bytes: struct.error, SyntaxError, …
        from PIL import Image

        if isinstance(error, Image.DecompressionBombError):
            raise VaderError(
                f"picture {path}: it has more than {MOST_PIXELS:,} pixels: make it smaller"
            ) from error
        raise VaderError(f"picture {path} cannot be read: {error}") from error


def as_seen(picture: Image) -> Image:
    """A picture as a viewer shows it, RGB: upright, over white, 8 bits."""
    from PIL import Image, ImageOps

    turned = ImageOps.exif_transpose(picture) or picture
    if turned.mode.startswith("I") or turned.mode == "F":
        return _from_sixteen(turned)
    if turned.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in turned.info:
        ground = Image.new("RGBA", turned.size, (*GROUND, 255))
        return Image.alpha_composite(ground, turned.convert("RGBA")).convert("RGB")
    return turned.convert("RGB")


def _from_sixteen(picture: Image) -> Image:
    """16-bit grey as 8-bit RGB; the value that is said to be transparent becomes the ground."""
    import numpy
    from PIL import Image

    values = numpy.asarray(picture).astype(numpy.float64)
    grey = numpy.clip(numpy.rint(values / 257.0), 0, 255).astype(numpy.uint8)
    hidden = picture.info.get("transparency")
    colours = numpy.repeat(grey[..., None], 3, axis=2)
    if isinstance(hidden, int):
        colours[values == hidden] = GROUND
    return Image.fromarray(colours)


def _without_texts(data: bytes) -> bytes:
    """A PNG without its text parts: programs keep whole workflows there, more than Pillow takes."""
    kept, position = [data[:8]], 8
    while position + 12 <= len(data):
        (length,) = struct.unpack(">I", data[position : position + 4])
        end = position + 12 + length
        if data[position + 4 : position + 8] not in _TEXTS or end > len(data):
            kept.append(data[position:end])
        position = end
    return b"".join(kept)
