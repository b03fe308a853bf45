"""Read untrusted image files: whatever is not plainly an RGB or grey image is an error, never a guess."""

import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import SEEK_END, BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import torch
from torch import Tensor

from damlpips.files import open_regular, reason

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".webp", ".avif", ".tif", ".tiff", ".gif", ".tga"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
# Pillow's names for the same formats. Pillow goes by a file's contents: if every format were allowed, an EPS named .png
# would be handed to Ghostscript.
FORMATS = ("PNG", "JPEG", "MPO", "BMP", "DIB", "WEBP", "AVIF", "TIFF", "GIF", "TGA", "PPM")
# An environment variable: "all" lets Pillow read every format it knows, for files that are trusted.
FORMATS_VARIABLE = "DAMLPIPS_FORMATS"
# Formats that Pillow hands to another program, or knows by name only.
NEVER = ("EPS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5")

# Some of Pillow's readers load the whole file. The largest image that Pillow decodes has 90 million pixels: 360 MB
# uncompressed.
LARGEST_FILE = 1 << 29

# TIFF tags
TILE_WIDTH, TILE_LENGTH, PHOTOMETRIC = 322, 323, 262
# Grey that counts from white, which Pillow ignores at 16 bits.
WHITE_IS_ZERO = 0

# What to do with transparent pixels: their score depends on the background.
ALPHA = ("error", "white", "black")
BACKGROUNDS = {"white": (255, 255, 255, 255), "black": (0, 0, 0, 255)}

ALPHA_MODES = ("RGBA", "RGBa", "LA", "La", "PA")
# CMYK and Lab need a colour profile to become RGB; a guessed one would change scores.
READABLE_MODES = ("1", "L", "P", "RGB", "YCbCr", *ALPHA_MODES)
# Pillow silently reads 16-bit RGB as 8-bit; only the raw mode that it unpacks tells. BMP's "BGR;16" is 5-6-5 bits.
DEEP_RAW_MODE = re.compile(r";16[BLN]")
# Pillow keeps the high byte of the 16 bits; with the byte order swapped, it keeps the low one.
OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
COLOUR_16 = ("RGB;16", "RGBA;16")
GREY_16 = ("I;16", "I;16L", "I;16B", "I;16N")


class ScoringError(ValueError):
    """A file cannot be paired, read or scored; the message names it."""


def _pillow() -> ModuleType:
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError as error:
        raise ScoringError("reading image files needs Pillow: pip install 'damlpips[cli]'") from error
    return PIL


def read_image(path: Path, *, alpha: str = "error", deep: bool = False) -> Tensor:
    """Return an image file's pixels as uint8 RGB (3, H, W), rotated as its EXIF orientation says.

    Grey and palette images become RGB; an alpha channel that is opaque everywhere is dropped.

    With `deep`, a PNG or TIFF with 16 bits a channel becomes float32 in [0, 1], value / 65535.

    Args:
        path: the file.
        alpha: what to do with transparent pixels: "error" refuses them, "white" and "black" are backgrounds.
        deep: whether to read 16 bits a channel; otherwise they are an error.

    Raises:
        ScoringError: the file is missing, not a regular file, damaged, empty, too large to be read safely, animated,
            transparent, or in another depth or colour space than 8-bit RGB or grey.
    """
    return _read(lambda: open_regular(path), path, alpha=alpha, deep=deep)


def decode_image(content: bytes, name: str, *, alpha: str = "error", deep: bool = False) -> Tensor:
    """Return the pixels of an image file that is in memory, as `read_image` does.

    Args:
        content: the bytes of the file.
        name: what errors call it.
        alpha, deep: as for `read_image`.

    Raises:
        ScoringError: as `read_image`.
    """
    return _read(lambda: BytesIO(content), name, alpha=alpha, deep=deep)


def _read(opened: Callable[[], BinaryIO], path: Path | str, *, alpha: str, deep: bool) -> Tensor:
    pil = _pillow()
    try:
        with opened() as file, _FILTERS.of(pil):
            _check_length(file, path)
            with pil.Image.open(file, formats=_formats(pil)) as image:
                is_deep = deep and _is_readable_deep(image)
                if not is_deep:
                    _check_kind(image, path)
                _check_tiles(image, pil.Image.MAX_IMAGE_PIXELS, path)
                if is_deep:
                    return _deep_pixels(image, opened, path, alpha)
                image.load()
                pil.ImageOps.exif_transpose(image, in_place=True)
                return _pixels(_opaque_rgb(image, path, alpha))
    except ScoringError:
        raise
    except pil.UnidentifiedImageError as error:
        known = _formats(pil)
        more = "" if _all_formats() else f"; with {FORMATS_VARIABLE}=all others that Pillow reads, too"
        raise ScoringError(f"{path}: not an image of a known kind ({', '.join(known)}{more})") from error
    except (pil.Image.DecompressionBombError, pil.Image.DecompressionBombWarning) as error:
        raise ScoringError(f"{path}: refused, too many pixels ({error})") from error
    except MemoryError as error:
        raise ScoringError(f"{path}: not enough memory to read it") from error
    except OSError as error:
        # Pillow's own errors carry only a text
        what = reason(error) if error.strerror else f"damaged image ({error})"
        raise ScoringError(f"{path}: {what}") from error
    except Exception as error:  # each of Pillow's readers raises its own kinds of errors for damaged files
        raise ScoringError(f"{path}: damaged image ({type(error).__name__}: {error})") from error


class _Filters:
    """The filters of warnings while images are read: one state for all threads, since filters are global."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._before: ExitStack = ExitStack()

    @contextmanager
    def of(self, pil: ModuleType) -> Iterator[None]:
        """Set the filters; when the last reader leaves, restore them."""
        with self._lock:
            if self._readers == 0:
                self._before.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")  # about metadata; anything that affects pixels is an error by itself
                warnings.simplefilter("error", pil.Image.DecompressionBombWarning)
            self._readers += 1
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1
                if self._readers == 0:
                    self._before.close()


_FILTERS = _Filters()


def _check_length(file: BinaryIO, path: Path | str) -> None:
    length = file.seek(0, SEEK_END)
    file.seek(0)
    if length == 0:
        raise ScoringError(f"{path}: the file is empty")
    if length > LARGEST_FILE:
        raise ScoringError(f"{path}: refused, a file of {length} bytes, more than {LARGEST_FILE}")


def _all_formats() -> bool:
    value = os.environ.get(FORMATS_VARIABLE, "")
    if value not in ("", "all"):
        raise ScoringError(f"{FORMATS_VARIABLE}: expected 'all' or nothing, got {value!r}")
    return value == "all"


def _formats(pil: ModuleType) -> list[str]:
    """Return the formats to read, of those that this Pillow was built with: it fails on the names of others."""
    pil.Image.init()
    wanted = (name for name in pil.Image.OPEN if name not in NEVER) if _all_formats() else FORMATS
    return [name for name in wanted if name in pil.Image.OPEN]


def suffixes() -> frozenset[str]:
    """Return the endings, in lower case, by which images are found in folders."""
    if not _all_formats():
        return frozenset(SUFFIXES)
    pil = _pillow()
    known = set(_formats(pil))
    return frozenset((*SUFFIXES, *(end for end, name in pil.Image.registered_extensions().items() if name in known)))


def _check_kind(image: Any, path: Path | str) -> None:
    """Raise a ScoringError for an image that cannot become 8-bit RGB without a loss or a guess."""
    # a phone's JPEG may carry a second view (MPO): the first one is the picture
    if getattr(image, "is_animated", False) and image.format != "MPO":
        # without their number: counting them would read all of a long file
        raise ScoringError(f"{path}: several frames or pages: save the one to score as an image of its own")
    if image.mode.startswith(("I", "F")) or any(_is_deep(codec, args) for codec, _, _, args in image.tile):
        raise ScoringError(
            f"{path}: more than 8 bits a channel (Pillow mode {image.mode!r}): convert it to 8 bit first"
        )
    if image.mode not in READABLE_MODES:
        raise ScoringError(f"{path}: Pillow mode {image.mode!r}: convert it to 8-bit RGB first")


def _check_tiles(image: Any, most_pixels: int | None, path: Path | str) -> None:
    """Raise a ScoringError for a TIFF whose tiles are larger than any image may be: each is decoded whole."""
    tags = getattr(image, "tag_v2", {})
    width, height = (tags.get(tag, 1) for tag in (TILE_WIDTH, TILE_LENGTH))
    if not (isinstance(width, int) and isinstance(height, int)):
        raise ScoringError(f"{path}: damaged image (the sides of its tiles are no whole numbers)")
    if most_pixels is not None and width * height > most_pixels:
        raise ScoringError(f"{path}: refused, too many pixels in a tile ({width} x {height})")


def _is_deep(codec: str, args: Any) -> bool:
    """Return whether one of Pillow's decoders starts from more than 8 bits a channel."""
    if codec.startswith("ppm"):
        return args[-1] > 255
    raw_mode = args[0] if isinstance(args, tuple) and args else args
    return isinstance(raw_mode, str) and DEEP_RAW_MODE.search(raw_mode) is not None


def _raw_mode(tile: Any) -> str:
    args = tile[3][0] if isinstance(tile[3], tuple) and tile[3] else tile[3]
    return args if isinstance(args, str) else ""


def _is_readable_deep(image: Any) -> bool:
    """Return whether an image has 16 bits a channel and Pillow gives access to all of them."""
    if image.format not in ("PNG", "TIFF") or getattr(image, "is_animated", False) or "transparency" in image.info:
        return False
    if getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO:
        return False
    raw_modes = [_raw_mode(tile) for tile in image.tile]
    if image.mode in GREY_16:
        return True
    if image.mode == "I":  # how Pillow 10 reads grey PNGs
        return image.format == "PNG" and raw_modes == ["I;16B"]
    return bool(raw_modes) and all(mode[:-1] in COLOUR_16 and mode[-1] in OTHER_ORDER for mode in raw_modes)


def _deep_pixels(image: Any, opened: Callable[[], BinaryIO], path: Path | str, alpha: str) -> Tensor:
    """Return an image of 16 bits a channel as float32 RGB (3, H, W) in [0, 1]."""
    pil = _pillow()
    if image.mode == "I":
        values = _loaded(image, pil, torch.int32, 1).float()
    elif image.mode in GREY_16:
        little = image.mode in ("I;16", "I;16L") or (image.mode == "I;16N" and sys.byteorder == "little")
        first, second = _loaded(image, pil, torch.uint8, 2).split(1)
        values = _joined(second, first) if little else _joined(first, second)
    else:
        with opened() as file, pil.Image.open(file, formats=[image.format]) as again:
            again.tile = [_in_other_order(tile) for tile in again.tile]
            high, low = (_loaded(part, pil, torch.uint8, len(part.mode)) for part in (image, again))
        values = _joined(high, low)
    values /= 65535
    if len(values) == 4:
        values = _over_background(values[:3], values[3:], path, alpha)
    return values.expand(3, -1, -1).contiguous()


def _in_other_order(tile: Any) -> Any:
    mode = _raw_mode(tile)
    other = mode[:-1] + OTHER_ORDER[mode[-1]]
    args = (other, *tile[3][1:]) if isinstance(tile[3], tuple) else other
    return type(tile)(*tile[:3], args) if hasattr(tile, "_fields") else (*tile[:3], args)


def _loaded(image: Any, pil: ModuleType, dtype: torch.dtype = torch.uint8, channels: int = 3) -> Tensor:
    """Return an image's values (C, H, W), rotated as its EXIF orientation says; they are read-only."""
    image.load()
    pil.ImageOps.exif_transpose(image, in_place=True)
    return _values(image, dtype, channels)


def _values(image: Any, dtype: torch.dtype = torch.uint8, channels: int = 3) -> Tensor:
    width, height = image.size
    return torch.frombuffer(image.tobytes(), dtype=dtype).reshape(height, width, channels).permute(2, 0, 1)


def _joined(high: Tensor, low: Tensor) -> Tensor:
    """Return 256 high + low, one channel at a time, since images may be large."""
    values = torch.empty(high.shape)
    for value, more, less in zip(values, high, low, strict=True):
        value.copy_(more).mul_(256).add_(less)
    return values


def _check_alpha(alpha: str, path: Path | str) -> None:
    """Raise a ScoringError for transparent pixels, unless they are to be laid over a background."""
    if alpha == "error":
        raise ScoringError(f"{path}: has transparent pixels: flatten it over a background first")


def _over_background(colours: Tensor, opacity: Tensor, path: Path | str, alpha: str) -> Tensor:
    if bool((opacity == 1).all()):
        return colours
    _check_alpha(alpha, path)
    return opacity * colours + (1 - opacity) * (BACKGROUNDS[alpha][0] / 255)


def _opaque_rgb(image: Any, path: Path | str, alpha: str) -> Any:
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] < 255:
            _check_alpha(alpha, path)
            background = _pillow().Image.new("RGBA", image.size, BACKGROUNDS[alpha])
            image = _pillow().Image.alpha_composite(background, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def opaque(pixels: Tensor, path: Path, alpha: str) -> Tensor:
    """Return 8-bit RGBA pixels (H, W, 4) as RGB (H, W, 3); `alpha` says what to do with transparent ones.

    Raises:
        ScoringError: there are transparent pixels, and `alpha="error"`; names the file.
    """
    height, width = pixels.shape[:2]
    pil = _pillow()
    image = pil.Image.frombytes("RGBA", (width, height), pixels.numpy().tobytes())
    with _FILTERS.of(pil):
        return _pixels(_opaque_rgb(image, path, alpha)).permute(1, 2, 0)


def _pixels(image: Any) -> Tensor:
    # a copy: the buffer is read-only, of which torch would warn
    return _values(image).clone(memory_format=torch.contiguous_format)
