"""Read untrusted image files: whatever is not plainly an RGB or grey image is an error, never a guess."""

import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from functools import lru_cache, partial
from io import SEEK_END, BytesIO
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import torch
from torch import Tensor
from typing_extensions import Unpack

from damlpips.files import open_regular, reason
from damlpips.scoring import colour_profiles, containers, depth, orientation
from damlpips.scoring.colour_profiles import ProfileError, Space, Stated
from damlpips.scoring.reading import ALPHA as ALPHA
from damlpips.scoring.reading import Reading, ReadingOptions, note
from damlpips.scoring.reading import ScoringError as ScoringError

if TYPE_CHECKING:
    from numpy import ndarray

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
# Other kinds of files that come with the names of those that are read
OTHERS: containers.Marks = {
    "HEIC": [(4, b"ftyphei"), (4, b"ftyphev"), *((at, b"hei") for at in range(16, 48, 4))],
    "JPEG XL": [(0, b"\xff\x0a"), (0, b"\0\0\0\x0cJXL ")],
    "PFM, floating-point numbers of 32 bits": [(0, b"PF\n"), (0, b"PF\r"), (0, b"PF ")],
    "PAM": [(0, b"P7\n")],
    "OpenEXR": [(0, b"\x76\x2f\x31\x01")],
    "Radiance HDR": [(0, b"#?RADIANCE"), (0, b"#?RGBE")],
}
TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# Some of Pillow's readers load the whole file. The largest image that Pillow decodes has 90 million pixels: 360 MB
# uncompressed. A larger limit of pixels allows 8 bytes for each, as many as RGBA of 16 bits has.
LARGEST_FILE, MOST_BYTES_A_PIXEL = 1 << 29, 8

BACKGROUNDS = {"white": (255, 255, 255, 255), "black": (0, 0, 0, 255)}

ALPHA_MODES = ("RGBA", "RGBa", "LA", "La", "PA")
# CMYK needs a profile to become RGB; a guessed one would change scores.
PROFILED_MODES = ("CMYK",)
READABLE_MODES = ("1", "L", "P", "RGB", "RGBX", "YCbCr", "LAB", *ALPHA_MODES)

# What Exif says of Adobe RGB, which has no profile there: colours that are not sRGB's, and the letters R03
EXIF, INTEROPERABILITY, COLOUR_SPACE, INDEX = 0x8769, 0xA005, 0xA001, 1
UNCALIBRATED, ADOBE = (0xFFFF, 2), "R03"


class Still(NamedTuple):
    """The pixels of an image file.

    Attributes:
        pixels: (3, H, W), uint8, or float32 in [0, 1] for more than 8 bits a channel.
        orientation: 1 if they are as they were stored; otherwise the Exif orientation by which they were rotated.
    """

    pixels: Tensor
    orientation: int = 1


def pillow() -> ModuleType:
    """Return Pillow, with its modules that are used here; a ScoringError where it is not installed."""
    try:
        import PIL.Image
        import PIL.ImageFile
    except ImportError as error:
        raise ScoringError("reading image files needs Pillow: pip install 'damlpips[cli]'") from error
    return PIL


def read_image(path: Path, *, deep: bool = False, **options: Unpack[ReadingOptions]) -> Tensor:
    """Return an image file's pixels as uint8 sRGB (3, H, W), rotated as its EXIF orientation says.

    Grey and palette images become RGB; an alpha channel that is opaque everywhere is dropped. Colours that a profile,
    or numbers in the file, state are converted to sRGB; those that sRGB lacks become the nearest that it has.

    With `deep`, an image of more than 8 bits a channel becomes float32 in [0, 1].

    Args:
        path: the file.
        deep: whether to read more than 8 bits a channel; otherwise they are an error.
        options: `alpha`, `colour`, `orientation` and `max_pixels`, the fields of `Reading`.

    Raises:
        ScoringError: the file is missing, not a regular file, damaged, empty, too large to be read safely, animated,
            transparent, in HDR, or in another depth or colour space than RGB or grey.
        ValueError: an option is not as expected.
    """
    return read_still(path, deep=deep, reading=Reading(**options)).pixels


def decode_image(content: bytes, name: str, *, deep: bool = False, **options: Unpack[ReadingOptions]) -> Tensor:
    """Return the pixels of an image file that is in memory, as `read_image` does.

    Args:
        content: the bytes of the file.
        name: what errors call it.
        deep, options: as for `read_image`.

    Raises:
        ScoringError: as `read_image`.
    """
    return decode_still(content, name, deep=deep, reading=Reading(**options)).pixels


def read_mask(path: Path, reading: Reading | None = None) -> Still:
    """Return which pixels of a mask's file count, (1, H, W) of bool: those that are not black and not transparent.

    Raises:
        ScoringError: as `read_image`.
    """
    # colours are not what matters
    reading = replace(reading or Reading(), alpha="black", colour="ignore")
    still = read_still(path, deep=True, reading=reading)
    return still._replace(pixels=(still.pixels != 0).any(0, keepdim=True))


def read_still(path: Path, *, deep: bool = False, reading: Reading | None = None) -> Still:
    """Return what `read_image` returns, with the orientation.

    Raises:
        ScoringError: as `read_image`.
    """
    return _read(lambda: open_regular(path), path, deep, reading or Reading())


def decode_still(content: bytes, name: str, *, deep: bool = False, reading: Reading | None = None) -> Still:
    """Return what `decode_image` returns, with the orientation.

    Raises:
        ScoringError: as `read_image`.
    """
    return _read(lambda: BytesIO(content), name, deep, reading or Reading())


class _Limits:
    """What is set while images are read, and is global, for all threads: Pillow's limit of pixels, that it refuses
    truncated files (programs let it fill them up, and so does pyiqa 0.1.14 when it is imported), and the filters of
    warnings.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted: list[int] = []
        self._filters: Any = None
        self._before: int | None = None
        self._fills_up = False

    @contextmanager
    def of(self, pil: ModuleType, most_pixels: int | None) -> Iterator[int | None]:
        """Set them, and yield the limit; when the last reader leaves, restore them."""
        with self._lock:
            if not self._wanted:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                self._before = pil.Image.MAX_IMAGE_PIXELS
                self._fills_up = False
                # about metadata; anything that affects pixels is an error by itself
                warnings.filterwarnings("ignore", module=r"PIL\b|damlpips\.scoring\.(images|depth)|numpy")
                warnings.simplefilter("error", pil.Image.DecompressionBombWarning)
            limit = self._before if most_pixels is None else most_pixels
            self._wanted.append(limit or 0)
            self._set(pil)
            # a package that was imported meanwhile may have turned it on
            self._fills_up |= pil.ImageFile.LOAD_TRUNCATED_IMAGES
            pil.ImageFile.LOAD_TRUNCATED_IMAGES = False
        try:
            yield limit
        finally:
            with self._lock:
                self._wanted.remove(limit or 0)
                self._set(pil)
                if not self._wanted:
                    pil.ImageFile.LOAD_TRUNCATED_IMAGES |= self._fills_up
                    self._filters.__exit__(None, None, None)

    def _set(self, pil: ModuleType) -> None:
        if self._before is not None:
            pil.Image.MAX_IMAGE_PIXELS = max([self._before, *self._wanted])


_LIMITS = _Limits()


def limited() -> AbstractContextManager[int | None]:
    """Return a context in which Pillow reads as it does here: with its limit of pixels, and no truncated file."""
    return _LIMITS.of(pillow(), None)


def _read(opened: Callable[[], BinaryIO], path: Path | str, deep: bool, reading: Reading) -> Still:
    pil = pillow()
    notes: list[str] = []
    try:
        with opened() as file, _LIMITS.of(pil, reading.max_pixels) as most_pixels:
            _check_length(file, path, reading)
            found = _Reader(pil, path, deep, reading, most_pixels, notes).read(opened, file)
    except ScoringError as error:
        if str(error).startswith(f"{path}: "):
            raise
        raise ScoringError(f"{path}: {error}") from error
    except pil.UnidentifiedImageError as error:
        raise ScoringError(f"{path}: {_unknown(pil, opened)}") from error
    except (pil.Image.DecompressionBombError, pil.Image.DecompressionBombWarning) as error:
        raise ScoringError(f"{path}: refused, too many pixels ({error}){_WAY_OUT}") from error
    except MemoryError as error:
        raise ScoringError(f"{path}: not enough memory to read it") from error
    except OSError as error:
        # Pillow's own errors carry only a text
        what = reason(error) if error.strerror else f"damaged image ({error})"
        raise ScoringError(f"{path}: {what}") from error
    except Exception as error:  # each of Pillow's readers raises its own kinds of errors for damaged files
        raise ScoringError(f"{path}: damaged image ({type(error).__name__}: {error})") from error
    for text in notes:
        note(f"{path}: {text}")
    return found


_WAY_OUT = ": use max_pixels=N to read images of up to N pixels"


def _unknown(pil: ModuleType, opened: Callable[[], BinaryIO]) -> str:
    """Return what is wrong with a file that Pillow does not identify."""
    with opened() as file:
        head = file.read(containers.LARGEST_META)
    if head[:2] == b"\xff\xd8" and (frame := containers.jpeg_frame(head)) is not None:
        return f"JPEG ({frame[0]}, {frame[1]} bits a channel), which Pillow does not read: convert it to 8 bit first"
    if (name := containers.kind_of(head, OTHERS)) is not None:
        return f"is {name}, which is not read: convert it to one of {', '.join(_formats(pil))} first"
    more = "" if _all_formats() else f"; with {FORMATS_VARIABLE}=all others that Pillow reads, too"
    return f"not an image of a known kind ({', '.join(_formats(pil))}{more})"


def _check_length(file: BinaryIO, path: Path | str, reading: Reading) -> None:
    length = file.seek(0, SEEK_END)
    file.seek(0)
    if length == 0:
        raise ScoringError(f"{path}: the file is empty")
    most = max(LARGEST_FILE, MOST_BYTES_A_PIXEL * (reading.max_pixels or 0))
    if length > most:
        raise ScoringError(f"{path}: refused, a file of {length} bytes, more than {most}{_WAY_OUT}")


def _all_formats() -> bool:
    value = os.environ.get(FORMATS_VARIABLE, "")
    if value not in ("", "all"):
        raise ScoringError(f"{FORMATS_VARIABLE}: expected 'all' or nothing, got {value!r}")
    return value == "all"


def _formats(pil: ModuleType) -> list[str]:
    """Return the formats to read, of those that this Pillow was built with: it fails on the names of others."""
    return _formats_of(pil, _all_formats(), len(pil.Image.OPEN))


@lru_cache
def _formats_of(pil: ModuleType, every: bool, registered: int) -> list[str]:
    """Return the formats while so many are registered: asking Pillow each time takes longer than opening a file."""
    pil.Image.init()
    wanted = (name for name in pil.Image.OPEN if name not in NEVER) if every else FORMATS
    return [name for name in wanted if name in pil.Image.OPEN]


def suffixes() -> frozenset[str]:
    """Return the endings, in lower case, by which images are found in folders."""
    if not _all_formats():
        return frozenset(SUFFIXES)
    pil = pillow()
    known = set(_formats(pil))
    return frozenset((*SUFFIXES, *(end for end, name in pil.Image.registered_extensions().items() if name in known)))


class _Reader:
    """Reads one file.

    Args:
        pil: Pillow.
        path: what errors call the file.
        deep: whether to read more than 8 bits a channel.
        reading: the options.
        most_pixels: the most pixels of an image.
        notes: told what could not be told about the file.
    """

    def __init__(
        self,
        pil: ModuleType,
        path: Path | str,
        deep: bool,
        reading: Reading,
        most_pixels: int | None,
        notes: list[str],
    ) -> None:
        self._pil, self._path, self._deep = pil, path, deep
        self._reading, self._most_pixels, self._notes = reading, most_pixels, notes

    def read(self, opened: Callable[[], BinaryIO], file: BinaryIO) -> Still:
        """Return the pixels of a file that is opened."""
        head = file.read(12)
        file.seek(0)
        if head[:4] in TIFF_MARKS:
            return self._tiff(opened, file)
        try:
            return self._with_pillow(opened, file)
        except ScoringError:
            raise
        except Exception:
            # what is not needed for the pixels may be at fault
            if (found := self._mended(file)) is None:
                raise
            return found

    def _mended(self, file: BinaryIO) -> Still | None:
        """Return the pixels of a file whose metadata cannot be read, or that lacks its end; None if it is damaged."""
        file.seek(0)
        content = file.read()
        notes = list(self._notes)
        try:
            mend = next(mend for mark, mend in MENDED.items() if content.startswith(mark))
            stills = [
                self._with_pillow(partial(BytesIO, version), BytesIO(version), stated_by=file)
                for version in mend(content)
                if version != content
            ]
        except ScoringError:
            raise
        except Exception:
            stills = []
        if not stills or not all(torch.equal(still.pixels, stills[0].pixels) for still in stills):
            self._notes[:] = notes
            return None
        self._note("some of its metadata cannot be read; its pixels can")
        return stills[0]

    def _tiff(self, opened: Callable[[], BinaryIO], file: BinaryIO) -> Still:
        page: depth.Tiff | None = None
        for_pillow = True
        with suppress(Exception):  # whatever is wrong with it, Pillow says it
            page = depth.tiff_of(file)
            for_pillow = page.is_for_pillow
        file.seek(0)
        if page is None or for_pillow:
            try:
                return self._with_pillow(opened, file)
            except self._pil.UnidentifiedImageError:
                if page is None:
                    raise
        return self._own_tiff(page, file)

    def _own_tiff(self, page: depth.Tiff, file: BinaryIO) -> Still:
        if page.several:
            raise ScoringError(SEVERAL)
        if not self._deep and max(page.bits) > 8:
            raise ScoringError(f"more than 8 bits a channel ({page.shown}): {depth.FIRST}")
        file.seek(0)
        self._check_size(page.size)
        self._check_size(page.tile, " in a tile")
        values = depth.tiff(page, file.read()).scaled()
        return self._from_array(values, self._stated_by_tags(page.tags), page.tags.get(orientation.TAG, 1))

    def _with_pillow(self, opened: Callable[[], BinaryIO], file: BinaryIO, stated_by: BinaryIO | None = None) -> Still:
        """Return the pixels of a file; what it states of colours is in `stated_by`, if that is another one."""
        with self._pil.Image.open(file, formats=_formats(self._pil)) as image:
            self._check_size(image.size)
            self._check_tiles(image)
            # a phone's JPEG may carry a second view (MPO): the first one is the picture
            if getattr(image, "is_animated", False) and image.format != "MPO":
                raise ScoringError(SEVERAL)
            about = _about_avif(opened) if image.format == "AVIF" else None
            bits = 8 if about is None else about.bits
            if bits > 8 or depth.is_deep(image):
                if not self._deep:
                    which = f"{bits} in an AVIF" if bits > 8 else f"Pillow mode {image.mode!r}"
                    raise ScoringError(f"more than 8 bits a channel ({which}): {depth.FIRST}")
                stated = self._stated(image, about, stated_by or file)
                values = self._samples(image, about, opened).scaled()
                return self._from_array(values, stated, self._orientation(image))
            if image.mode not in (*READABLE_MODES, *PROFILED_MODES):
                raise ScoringError(f"Pillow mode {image.mode!r}: convert it to 8-bit RGB first")
            stated = self._stated(image, about, stated_by or file)
            # Pillow rotates a TIFF while it loads it; a PNG's Exif may stand behind its pixels
            before = self._orientation(image) if image.format == "TIFF" else None
            image.load()
            remaining = self._orientation(image)
            rgb = opaque_rgb(self._converted(image, stated), self._path, self._reading.alpha)
            return self._turned(rgb, before or remaining, remaining)

    def _check_size(self, size: tuple[int, int], where: str = "") -> None:
        pixels = size[0] * size[1]
        if self._most_pixels is not None and pixels > self._most_pixels:
            raise ScoringError(
                f"refused, too many pixels{where} ({size[0]} x {size[1]}, more than {self._most_pixels}){_WAY_OUT}"
            )

    def _check_tiles(self, image: Any) -> None:
        """Raise a ScoringError for a TIFF whose tiles are larger than any image may be: each is decoded whole."""
        tags = getattr(image, "tag_v2", {})
        width, height = (tags.get(tag, 1) for tag in (depth.TILE_WIDTH, depth.TILE_LENGTH))
        if not (isinstance(width, int) and isinstance(height, int)):
            raise ScoringError("damaged image (the sides of its tiles are no whole numbers)")
        self._check_size((width, height), " in a tile")

    def _samples(self, image: Any, about: containers.Avif | None, opened: Callable[[], BinaryIO]) -> depth.Samples:
        """Return the samples of an image of more than 8 bits."""
        if image.format == "PNG":
            return depth.png(image, opened)
        with opened() as file:
            if image.format == "PPM":
                return depth.pnm(image, file)
            if about is not None:
                return depth.avif(about, file, image.size)
        raise ScoringError(f"more than 8 bits a channel (Pillow mode {image.mode!r}): {depth.FIRST}")

    # --- orientation

    def _orientation(self, image: Any) -> int:
        """Return the Exif orientation of an image, 1 to 8."""
        try:
            return orientation.known(image.getexif().get(orientation.TAG, 1))
        except Exception as error:  # Exif is read by another reader, which has errors of its own
            self._note(f"its Exif cannot be read ({error}): its pixels are taken as they are stored")
            return 1

    def _turned(self, image: Any, stated: int, remaining: int) -> Still:
        """Return the pixels of an image that states an orientation, of which some or none remains to be applied."""
        if self._reading.orientation == "apply":
            return Still(_pixels(orientation.image_upright(image, remaining)), stated)
        # what was applied is undone
        applied = 1 if remaining == stated else stated
        return Still(_pixels(orientation.image_upright(image, orientation.inverse(applied))))

    # --- colours

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)

    def _stated(self, image: Any, about: containers.Avif | None, file: BinaryIO) -> Stated:
        """Return the colours that a file states; those that cannot be read are noted, and count as sRGB."""
        if self._reading.colour == "ignore":
            return None
        try:
            if image.format == "PNG":
                place = file.tell()
                chunks, bad = containers.png_colours(file)
                file.seek(place)
                if bad:
                    self._note(f"its {_names(bad)} cannot be read: its colours are taken as sRGB")
                return colour_profiles.of_png(chunks)
            if about is not None and about.colours is not None:
                by_numbers = colour_profiles.by_numbers(about.colours.primaries, about.colours.transfer)
                return image.info.get("icc_profile") or by_numbers
        except ProfileError as error:
            self._note(f"{error}: its colours are taken as sRGB")
            return None
        profile = image.info.get("icc_profile")
        if profile is None and image.format in ("JPEG", "MPO") and "exif" in image.info and _says_adobe_rgb(image):
            return colour_profiles.adobe_rgb()
        if profile is None and image.format == "TIFF":
            return self._stated_by_tags(image.tag_v2)
        if image.format == "BMP":
            profile = containers.bmp_profile(file)
        return profile if isinstance(profile, bytes) and profile else None

    def _stated_by_tags(self, tags: Mapping[int, Any]) -> Stated:
        """Return the colours that a TIFF states, by a profile or else by its primaries."""
        if self._reading.colour == "ignore":
            return None
        if isinstance(profile := tags.get(depth.PROFILE), bytes):
            return profile
        try:
            return colour_profiles.of_tiff(tags)
        except ProfileError as error:
            self._note(f"{error}: its colours are taken as sRGB")
            return None

    def _kind_of(self, profile: bytes) -> str | None:
        """Return the colours of a profile; None, and a note, if it cannot be read."""
        try:
            return colour_profiles.kind_of(profile)
        except ProfileError as error:
            self._note(f"its colour profile cannot be read ({error}): its colours are taken as sRGB")
            return None

    def _fits(self, profile: bytes, grey: bool) -> bool:
        """Return whether a profile is one for grey or RGB pixels; note it if not."""
        kind = self._kind_of(profile)
        if kind is None or kind == "RGB" or (kind == "GRAY" and grey):
            return kind is not None
        pixels = "grey" if grey else "RGB"
        self._note(f"its colour profile is one of {kind}, not of {pixels}: its colours are taken as sRGB")
        return False

    def _converted(self, image: Any, stated: Stated) -> Any:
        """Return a loaded image of 8 bits in sRGB: RGB, or RGBA if it has transparent pixels; or as it was."""
        if image.mode == "LAB":
            return self._through(image, None)
        kind = self._kind_of(stated) if isinstance(stated, bytes) else None
        if image.mode in PROFILED_MODES:
            if kind != image.mode:
                raise ScoringError(
                    f"{image.mode} without a colour profile of its own: convert it to 8-bit RGB first"
                    if self._reading.colour == "convert"
                    else f"{image.mode}: its colours have no meaning without its profile: use colour='convert'"
                )
            assert isinstance(stated, bytes)
            return self._through(image, stated)
        if isinstance(stated, Space):
            return self._by_space(_plain(image), stated)
        grey = image.mode in ("1", "L", "LA", "La")
        if not isinstance(stated, bytes) or not self._fits(stated, grey):
            return image
        if kind == "RGB":
            return self._through(_plain(image), stated)
        try:
            # LittleCMS is off by several steps in dark grey
            space = colour_profiles.space_of(stated)
        except ProfileError:
            return self._through(image.convert("L"), stated) if image.mode in ("1", "L") else image
        return image if space is None else self._by_space(_plain(image), space)

    def _through(self, image: Any, profile: bytes | None) -> Any:
        """Return an image that LittleCMS converted."""
        from PIL import ImageCms

        try:
            transform = colour_profiles.transform(profile, image.mode)
        except ProfileError as error:
            if image.mode in PROFILED_MODES:
                raise ScoringError(
                    f"its colour profile cannot be used ({error}): convert it to 8-bit RGB first"
                ) from error
            self._note(f"its colour profile cannot be used ({error}): its colours are taken as sRGB")
            return image
        return image if transform is None else ImageCms.applyTransform(image, transform)

    def _by_space(self, image: Any, space: Space) -> Any:
        import numpy as np

        return self._pil.Image.fromarray(colour_profiles.converted_by(space, np.asarray(image)))

    def _from_array(self, values: "ndarray", stated: Stated, turned: Any) -> Still:
        """Return an image (H, W, C) with its colours in sRGB, opaque, and rotated."""
        import numpy as np

        space: Space | None = None
        grey = values.shape[2] < 3
        if isinstance(stated, bytes) and self._fits(stated, grey):
            try:
                space = colour_profiles.space_of(stated)
            except ProfileError as error:
                raise ScoringError(
                    f"more than 8 bits a channel, and {error}: convert it to sRGB first,"
                    " or use colour='ignore' to score the numbers as they are"
                ) from error
        elif isinstance(stated, Space):
            space = stated
        if space is not None:
            values = colour_profiles.converted_by(space, values)
        if values.shape[2] % 2 == 0:
            values = self._over_background(values)
        applied = orientation.known(turned) if self._reading.orientation == "apply" else 1
        values = orientation.array_upright(values, applied)
        channels = values.transpose(2, 0, 1)
        whole = np.ascontiguousarray(np.broadcast_to(channels, (3, *channels.shape[1:])))
        return Still(torch.from_numpy(whole), applied)

    # --- opacity

    def _over_background(self, values: "ndarray") -> "ndarray":
        top = 255 if values.dtype.kind == "u" else 1
        if (values[..., -1] == top).all():
            return values[..., :-1]
        _check_alpha(self._reading.alpha, self._path)
        opacity = values[..., -1:] / top
        found = opacity * values[..., :-1] + (1 - opacity) * (BACKGROUNDS[self._reading.alpha][0] * top / 255)
        return found.round().astype(values.dtype) if top == 255 else found.astype(values.dtype)


SEVERAL = "several frames or pages: save the one to score as an image of its own"
# by the first bytes of a file: versions of it without what is not needed for its pixels, which all are then the same
MENDED: dict[bytes, Callable[[bytes], list[bytes]]] = {
    containers.PNG: lambda content: [containers.png_pixels_only(content)],
    b"RIFF": lambda content: [containers.webp_pixels_only(content)],
    b"\xff\xd8\xff": containers.jpegs_with_an_end,
}


def _names(kinds: set[bytes]) -> str:
    return " and ".join(sorted(kind.decode() for kind in kinds)) + (" chunks" if len(kinds) > 1 else " chunk")


def _about_avif(opened: Callable[[], BinaryIO]) -> containers.Avif | None:
    with opened() as file:
        return containers.avif(file.read(containers.LARGEST_META))


def _says_adobe_rgb(image: Any) -> bool:
    """Return whether Exif says that the colours are Adobe RGB, as cameras do."""
    try:
        exif = image.getexif()
        if exif.get_ifd(EXIF).get(COLOUR_SPACE) not in UNCALIBRATED:
            return False
        return str(exif.get_ifd(INTEROPERABILITY).get(INDEX, "")).startswith(ADOBE)
    except Exception:  # what cannot be read is noted with the orientation
        return False


def _check_alpha(alpha: str, path: Path | str) -> None:
    """Raise a ScoringError for transparent pixels, unless they are to be laid over a background."""
    if alpha == "error":
        raise ScoringError(f"{path}: has transparent pixels: flatten it over a background first")


def _plain(image: Any) -> Any:
    """Return an image as RGB, or RGBA if it has transparent pixels or may have."""
    mode = "RGBA" if _may_be_transparent(image) else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _may_be_transparent(image: Any) -> bool:
    return image.mode in ALPHA_MODES or "transparency" in image.info


def opaque_rgb(image: Any, path: Path | str, alpha: str) -> Any:
    """Return an image of 8 bits as RGB; `alpha` says what to do with transparent pixels.

    Raises:
        ScoringError: there are transparent pixels, and `alpha="error"`; names the file.
    """
    if _may_be_transparent(image):
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] < 255:
            _check_alpha(alpha, path)
            background = pillow().Image.new("RGBA", image.size, BACKGROUNDS[alpha])
            image = pillow().Image.alpha_composite(background, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def opaque(pixels: Tensor, path: Path, alpha: str) -> Tensor:
    """Return 8-bit RGBA pixels (H, W, 4) as RGB (H, W, 3); `alpha` says what to do with transparent ones.

    Raises:
        ScoringError: as `opaque_rgb`.
    """
    height, width = pixels.shape[:2]
    image = pillow().Image.frombytes("RGBA", (width, height), pixels.numpy().tobytes())
    return _pixels(opaque_rgb(image, path, alpha)).permute(1, 2, 0)


def _pixels(image: Any) -> Tensor:
    import numpy as np

    width, height = image.size
    stored = np.frombuffer(image.tobytes(), np.uint8).reshape(height, width, 3)
    # a copy, since the bytes are read-only
    return torch.from_numpy(stored.transpose(2, 0, 1).copy(order="C"))
