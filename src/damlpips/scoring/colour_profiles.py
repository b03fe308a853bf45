"""The colours that a still image states, by a profile or by numbers, and how they become sRGB.

LittleCMS, which comes with Pillow, converts images of 8 bits by their profile. It gives Pillow no more than 8 bits, so
deeper images, and colours that are stated by numbers, are converted here: a curve for each channel, then a matrix.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING, Any

from damlpips.scoring.reading import ScoringError

if TYPE_CHECKING:
    from numpy import ndarray

# The least loss for photographs: colours that sRGB has stay as they are, others become the nearest that it has, and
# the darkest of a printer becomes black.
INTENT = "RELATIVE_COLORIMETRIC"

# Transfer curves by their numbers in H.273. Those of SDR video count as sRGB's own, as they do for video files: screens
# show both alike.
AS_SRGB = (1, 2, 6, 13, 14, 15)
GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}
HDR = {16: "PQ", 18: "HLG"}
# Primaries by their numbers in H.273: x and y of white, red, green and blue.
D65, C = (0.3127, 0.3290), (0.310, 0.316)
PRIMARIES: Mapping[int, tuple[float, ...]] = {
    1: (*D65, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060),
    4: (*C, 0.670, 0.330, 0.210, 0.710, 0.140, 0.080),
    5: (*D65, 0.640, 0.330, 0.290, 0.600, 0.150, 0.060),
    6: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    8: (*C, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: (*D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    22: (*D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}
UNSTATED = 2
SRGB_PRIMARIES = PRIMARIES[1]
ADOBE_PRIMARIES = (*D65, 0.640, 0.330, 0.210, 0.710, 0.150, 0.060)
ADOBE_GAMMA = 563 / 256
# A PNG states sRGB's curve as the power 1 / 2.2. Other numbers this near to it are meant so, too.
SRGB_GAMMA, NEAR_GAMMA = 0.45455, 0.005
# What a TIFF states of them, by its tags
TRANSFER_FUNCTION, WHITE_POINT, PRIMARY_CHROMATICITIES = 301, 318, 319
# The white of profiles
D50 = (0.9642, 1.0, 0.8249)
BRADFORD = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
# The most by which colours may move, in 8-bit steps, for their profile to count as sRGB's
SAME = 1
# pixels that are converted at a time, since floats take four times the memory and more
ROWS_OF = 1 << 20

Curve = Callable[[Any], Any]


class ProfileError(Exception):
    """A profile cannot be read."""


def srgb_to_light(values: Any) -> Any:
    """Return the light of values of sRGB: v / 12.92 up to 0.04045, then ((v + 0.055) / 1.055)^2.4."""
    import numpy as np

    return np.where(values <= 0.04045, values / 12.92, ((np.maximum(values, 0.0) + 0.055) / 1.055) ** 2.4)


def light_to_srgb(light: Any) -> Any:
    """Return the values of sRGB for light in [0, 1]: the inverse of `srgb_to_light`."""
    import numpy as np

    return np.where(light <= 0.0031308, light * 12.92, 1.055 * np.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055)


def power(gamma: float) -> Curve:
    """Return the curve light = value^gamma."""
    return lambda values: values**gamma


@dataclass(frozen=True)
class Space:
    """Colours that are stated by curves and primaries: light = curve(value), XYZ at D50 = matrix light.

    Attributes:
        curves: of red, green and blue.
        matrix: the columns are XYZ of the three primaries.
    """

    curves: tuple[Curve, Curve, Curve]
    matrix: "ndarray"

    @classmethod
    def of(cls, primaries: tuple[float, ...], curve: Curve = srgb_to_light) -> "Space":
        """Return the space of one curve, and of primaries given as x and y of white, red, green and blue.

        Raises:
            ProfileError: they are not those of three lights.
        """
        import numpy as np

        white, *others = (
            np.array([x / y, 1.0, (1 - x - y) / y]) if y else np.full(3, np.nan)
            for x, y in zip(primaries[::2], primaries[1::2], strict=True)
        )
        lights = np.stack(others, 1)
        cone = np.array(BRADFORD)
        if not np.isfinite([*white, *lights.flat]).all() or abs(np.linalg.det(lights)) < 1e-6:
            raise ProfileError("its primaries are not those of three lights")
        adapted = np.linalg.inv(cone) @ np.diag((cone @ D50) / (cone @ white)) @ cone
        return cls((curve, curve, curve), adapted @ (lights * np.linalg.solve(lights, white)))

    def to_srgb(self, values: "ndarray") -> "ndarray":
        """Return values (N, 3) from 0 to 1 as sRGB; colours that it lacks are cut off at 0 and 1."""
        import numpy as np

        light = np.stack([curve(values[:, k]) for k, curve in enumerate(self.curves)], 1)
        to_srgb = np.linalg.solve(_srgb_matrix(), self.matrix)
        return light_to_srgb(np.clip(light @ to_srgb.T.astype(light.dtype), 0, 1))

    def is_srgb(self) -> bool:
        """Return whether colours move by no more than one step of 8 bits."""
        import numpy as np

        steps = np.linspace(0, 1, 16)
        lattice = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3)
        return bool(np.abs(self.to_srgb(lattice) - lattice).max() * 255 <= SAME)


@lru_cache(1)
def _srgb_matrix() -> "ndarray":
    return Space.of(SRGB_PRIMARIES).matrix


# What a file states of its colours: a profile, curves and primaries, or nothing that differs from sRGB
Stated = bytes | Space | None


def by_numbers(primaries: int, transfer: int) -> Space | None:
    """Return the colours that two numbers of H.273 state; None for those of sRGB.

    Raises:
        ScoringError: of HDR, or numbers that are not known; without the name of the file.
    """
    if transfer in HDR:
        raise ScoringError(
            f"HDR ({HDR[transfer]}): bring it to SDR first, as it would be shown;"
            " or use colour='ignore' to score the numbers as they are"
        )
    primaries = 1 if primaries == UNSTATED else primaries
    if primaries not in PRIMARIES or transfer not in (*AS_SRGB, *GAMMAS):
        raise ScoringError(
            f"colours of primaries {primaries} and transfer {transfer} (H.273): convert it to sRGB first,"
            " or use colour='ignore' to score the numbers as they are"
        )
    curve = srgb_to_light if transfer in AS_SRGB else power(GAMMAS[transfer])
    return _unless_srgb(Space.of(PRIMARIES[primaries], curve))


def of_png(chunks: Mapping[bytes, bytes]) -> Stated:
    """Return the colours that the chunks of a PNG state: by cICP, else iCCP, else sRGB, else gAMA and cHRM.

    Raises:
        ScoringError: as `by_numbers`, or its values have a narrow range.
        ProfileError: gAMA or cHRM make no sense.
    """
    if b"cICP" in chunks:
        primaries, transfer, matrix, full = chunks[b"cICP"]
        if matrix or full != 1:
            raise ScoringError("its cICP chunk says YCbCr or a narrow range: convert it to RGB of full range first")
        return by_numbers(primaries, transfer)
    if b"iCCP" in chunks:
        return chunks[b"iCCP"]
    if b"sRGB" in chunks or not chunks:
        return None
    gamma, primaries_of = SRGB_GAMMA, SRGB_PRIMARIES
    if b"gAMA" in chunks:
        gamma = int.from_bytes(chunks[b"gAMA"], "big") / 100_000
    if b"cHRM" in chunks:
        primaries_of = tuple(number / 100_000 for number in struct.unpack(">8I", chunks[b"cHRM"]))
    if not 0.01 <= gamma <= 100:
        raise ProfileError(f"its gamma is {gamma}")
    return _unless_srgb(
        Space.of(primaries_of, srgb_to_light if abs(gamma - SRGB_GAMMA) <= NEAR_GAMMA else power(1 / gamma))
    )


def of_tiff(tags: Mapping[int, Any]) -> Space | None:
    """Return the colours that a TIFF states by white and primaries; None for those of sRGB, or where it states none.

    Raises:
        ProfileError: they make no sense, or the curve is stated, too.
    """
    white, lights = tags.get(WHITE_POINT), tags.get(PRIMARY_CHROMATICITIES)
    if TRANSFER_FUNCTION in tags:
        raise ProfileError("its transfer function is not applied")
    if white is None or lights is None:
        return None
    try:
        numbers = tuple(float(number) for number in (*white, *lights))
        return _unless_srgb(Space.of(numbers))
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ProfileError("its white or primaries cannot be read") from error


def adobe_rgb() -> Space:
    """Return Adobe RGB (1998), which cameras state in their Exif by the letters R03."""
    return Space.of(ADOBE_PRIMARIES, power(ADOBE_GAMMA))


def _unless_srgb(space: Space) -> Space | None:
    return None if space.is_srgb() else space


# --- profiles


@lru_cache(64)
def kind_of(profile: bytes) -> str:
    """Return the colours that a profile is of: "RGB", "GRAY", "CMYK", ...

    Raises:
        ProfileError: LittleCMS cannot read it.
        ScoringError: it is one of HDR.
    """
    from PIL import ImageCms

    try:
        found = ImageCms.ImageCmsProfile(BytesIO(profile)).profile.xcolor_space.strip()
    except (OSError, ImageCms.PyCMSError, AttributeError) as error:
        raise ProfileError(str(error)) from error
    numbers = _tags(profile).get(b"cicp", b"")
    if len(numbers) >= 12 and numbers[9] in HDR:
        by_numbers(numbers[8], numbers[9])
    return str(found)


@lru_cache(64)
def transform(profile: bytes | None, mode: str) -> Any:
    """Return LittleCMS's conversion of images of a mode to sRGB; None where it would change nothing.

    Args:
        profile: None for CIE Lab.
        mode: Pillow's: RGB, RGBA, L, CMYK or LAB.

    Raises:
        ProfileError: it cannot be made.
    """
    from PIL import Image, ImageCms

    out = "RGBA" if mode == "RGBA" else "RGB"
    try:
        source: Any = ImageCms.createProfile("LAB") if profile is None else ImageCms.ImageCmsProfile(BytesIO(profile))
        found = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            out,
            ImageCms.Intent[INTENT],
            ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.HIGHRESPRECALC,
        )
    except (OSError, ImageCms.PyCMSError) as error:
        raise ProfileError(str(error)) from error
    if mode in ("CMYK", "LAB"):
        return found
    steps = bytes(range(0, 256, 17))
    values = bytes(v for r in steps for g in steps for b in steps for v in (r, g, b))
    before: Any = Image.frombytes("RGB", (16, 256), values).convert(mode)
    after: Any = ImageCms.applyTransform(before, found)
    moved = zip(before.convert("RGB").tobytes(), after.convert("RGB").tobytes(), strict=True)
    return None if all(abs(a - b) <= SAME for a, b in moved) else found


@lru_cache(64)
def space_of(profile: bytes) -> Space | None:
    """Return the curves and primaries of a profile, for images of more than 8 bits; None for those of sRGB.

    Raises:
        ProfileError: it has none, but tables.
    """
    import numpy as np

    tags = _tags(profile)
    if any(name[:3] == b"A2B" for name in tags):
        raise ProfileError("its profile has tables")
    try:
        if b"kTRC" in tags:
            grey = _curve(tags[b"kTRC"])
            return _unless_srgb(Space((grey, grey, grey), _srgb_matrix()))
        columns = [np.array(struct.unpack_from(">3i", tags[name], 8)) / 65536 for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
        red, green, blue = (_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC"))
    except (KeyError, ValueError, struct.error) as error:
        raise ProfileError("its profile has no curves and primaries") from error
    return _unless_srgb(Space((red, green, blue), np.stack(columns, 1)))


def _tags(profile: bytes) -> dict[bytes, bytes]:
    """Return the contents of a profile by their signatures."""
    try:
        (count,) = struct.unpack_from(">I", profile, 128)
        entries = (struct.unpack_from(">4sII", profile, 132 + 12 * k) for k in range(min(count, 1000)))
        return {name: profile[at : at + size] for name, at, size in entries}
    except struct.error:
        return {}


# how many numbers the curves of each type have, and in which order: g, a, b, c, d, e, f
PARAMETERS = (1, 3, 4, 5, 7)


def _curve(tag: bytes) -> Curve:
    """Return the curve of a `curv` or `para` tag."""
    import numpy as np

    if tag[:4] == b"para":
        (kind,) = struct.unpack_from(">H", tag, 8)
        if kind >= len(PARAMETERS):
            raise ProfileError(f"a curve of type {kind}")
        return _parametric(kind, [n / 65536 for n in struct.unpack_from(f">{PARAMETERS[kind]}i", tag, 12)])
    if tag[:4] != b"curv":
        raise ProfileError("its profile has a curve of an unknown type")
    (count,) = struct.unpack_from(">I", tag, 8)
    if count == 0:
        return power(1.0)
    if count == 1:
        return power(struct.unpack_from(">H", tag, 12)[0] / 256)
    table = np.frombuffer(tag, ">u2", min(count, 1 << 16), 12) / 65535
    return lambda values: np.interp(values, np.linspace(0, 1, len(table)), table)


def _parametric(kind: int, numbers: list[float]) -> Curve:
    """Return (a x + b)^g + e from d on, and c x + f below."""
    import numpy as np

    g, a, b, c, d, e, f = (*numbers, *(1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)[len(numbers) :])
    if kind in (1, 2):
        # from -b / a on; below it is the constant
        d, c, e, f = (-b / a if a else 0.0), 0.0, (c if kind == 2 else 0.0), (c if kind == 2 else 0.0)
    return lambda values: np.where(values >= d, np.maximum(a * values + b, 0) ** g + e, c * values + f)


# --- images


def converted_by(space: Space, values: "ndarray") -> "ndarray":
    """Return an image (H, W, C), C = 1 to 4, as sRGB, of the same type; an alpha channel stays as it is.

    Example:
        >>> import numpy as np
        >>> converted_by(adobe_rgb(), np.array([[[0, 255, 0], [128, 128, 128]]], np.uint8)).tolist()
        [[[0, 255, 0], [129, 129, 129]]]
    """
    import numpy as np

    height, width, channels = values.shape
    alpha = channels % 2 == 0
    found = np.empty((height, width, 3 + alpha), values.dtype)
    top = 255 if values.dtype == np.uint8 else 1
    rows = max(1, ROWS_OF // width)
    for at in range(0, height, rows):
        part = values[at : at + rows, :, : channels - alpha].astype(np.float32) / top
        colours = space.to_srgb(np.broadcast_to(part, (*part.shape[:2], 3)).reshape(-1, 3)) * top
        if top == 255:
            colours = np.rint(colours)
        found[at : at + rows, :, :3] = colours.reshape(*part.shape[:2], 3)
    if alpha:
        found[..., 3] = values[..., -1]
    return found
