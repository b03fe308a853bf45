"""Colours that a still states, by a profile or by numbers, become sRGB; what would have to be guessed is an error."""

import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, features

from damlpips import DAMLPIPS
from damlpips.scoring.colour_profiles import Space, adobe_rgb, converted_by, power
from damlpips.scoring.images import ScoringError, decode_image, read_image
from damlpips.scoring.reading import FileWarning
from tests.support.pictures import pixels
from tests.support.profiles import (
    ADOBE_RGB,
    DISPLAY_P3,
    SRGB,
    gamma_curve,
    grey_profile,
    iccp,
    png,
    rgb_profile,
    table_profile,
)

VALUES = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
DEEP = VALUES.astype(np.uint16) * 257
P3, ADOBE = rgb_profile(DISPLAY_P3), rgb_profile(ADOBE_RGB, gamma_curve(2.2))
LINEAR = gamma_curve(1.0)
NUMBERS_OF_P3 = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
CHROMATICITIES = struct.pack(">8I", *(round(100_000 * number) for number in NUMBERS_OF_P3))


def read(content: bytes, **options: object) -> np.ndarray:
    """Return the pixels (H, W, 3) from 0 to 255."""
    image = decode_image(content, "x", deep=True, **options).permute(1, 2, 0)
    return image.numpy().astype(float) * (1 if image.dtype == torch.uint8 else 255)


def noted(content: bytes, message: str, **options: object) -> np.ndarray:
    with pytest.warns(FileWarning, match=f"x: {message}"):
        return read(content, **options)


def by_littlecms(values: np.ndarray, profile: bytes) -> np.ndarray:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    image = ImageCms.profileToProfile(Image.fromarray(values), source, ImageCms.createProfile("sRGB"), 1)
    return np.asarray(image).astype(float)


def light(values: np.ndarray) -> np.ndarray:
    """Return the values of sRGB of linear light in [0, 1]."""
    return 255 * np.where(values <= 0.0031308, 12.92 * values, 1.055 * values ** (1 / 2.4) - 0.055)


def saved(kind: str, values: np.ndarray = VALUES, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind, **options)
    return file.getvalue()


LOSSLESS = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True, "exact": True}}
if features.check("avif"):
    LOSSLESS["AVIF"] = {"quality": 100, "subsampling": "4:4:4"}


class TestProfiles:
    @pytest.mark.parametrize("kind", LOSSLESS)
    @pytest.mark.parametrize("profile", [P3, ADOBE], ids=["P3", "Adobe"])
    def test_is_applied_in_every_format(self, kind: str, profile: bytes) -> None:
        with Image.open(io.BytesIO(saved(kind, icc_profile=profile, **LOSSLESS[kind]))) as image:
            stored = np.asarray(image.convert("RGB"))
        image = read(saved(kind, icc_profile=profile, **LOSSLESS[kind]))
        assert np.abs(image - by_littlecms(stored, profile)).max() <= 1
        assert np.abs(image - stored).max() > 20
        ignored = read(saved(kind, icc_profile=profile, **LOSSLESS[kind]), colour="ignore")
        assert np.array_equal(ignored, stored)

    @pytest.mark.parametrize("profile", [P3, ADOBE, rgb_profile(SRGB, LINEAR)], ids=["P3", "Adobe", "linear"])
    def test_sixteen_bits_are_converted_as_eight_are(self, profile: bytes) -> None:
        deep = read(png(DEEP, iccp(profile)))
        assert np.abs(deep - by_littlecms(VALUES, profile)).max() < 1.1
        assert np.array_equal(read(png(DEEP, iccp(profile)), colour="ignore"), read(png(DEEP)))
        tifffile = pytest.importorskip("tifffile")
        file = io.BytesIO()
        tifffile.imwrite(file, DEEP, photometric="rgb", iccprofile=profile)
        assert np.array_equal(read(file.getvalue()), deep)

    def test_one_picture_in_two_profiles_scores_nearly_nothing(self) -> None:
        seen = pixels(3, 96, 96)
        srgb = ImageCms.createProfile("sRGB")
        images = []
        for profile in (P3, ADOBE):
            target = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            stored = np.asarray(ImageCms.profileToProfile(Image.fromarray(seen), srgb, target, 1))
            images.append(
                {how: decode_image(png(stored, iccp(profile)), "x", colour=how) for how in ("convert", "ignore")}
            )
        model = DAMLPIPS()
        scores = {how: float(model(*(image[how][None] for image in images))) for how in ("convert", "ignore")}
        assert (images[0]["convert"].int() - images[1]["convert"].int()).abs().float().mean() < 0.6
        assert scores["convert"] < 0.005 < 0.02 < scores["ignore"]

    @pytest.mark.parametrize(
        "profile",
        [rgb_profile(SRGB), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()],
        ids=["by hand", "LittleCMS"],
    )
    def test_srgb_of_any_maker_changes_no_bit(self, profile: bytes) -> None:
        assert np.array_equal(read(png(VALUES, iccp(profile))), VALUES)
        assert np.array_equal(read(png(DEEP, iccp(profile))), read(png(DEEP)))

    @pytest.mark.parametrize("values", [VALUES[..., :1], DEEP[..., :1]], ids=["8", "16"])
    @pytest.mark.parametrize("profile", [grey_profile(1.0), rgb_profile(SRGB, LINEAR)], ids=["grey", "RGB"])
    @pytest.mark.parametrize("opacity", [False, True], ids=["", "opacity"])
    def test_grey(self, values: np.ndarray, profile: bytes, opacity: bool) -> None:
        top = np.iinfo(values.dtype).max
        stored = np.concatenate([values, np.full_like(values, top)], 2) if opacity else values
        expected = np.broadcast_to(light(values / top), VALUES.shape)
        assert np.abs(read(png(stored, iccp(profile))) - expected).max() < 1.01

    def test_transparent_pixels(self) -> None:
        values = np.dstack([VALUES, np.full(VALUES.shape[:2], 255, np.uint8)])
        values[0, 0, 3] = 0
        with pytest.raises(ScoringError, match="has transparent pixels"):
            read(png(values, iccp(P3)))
        image = read(png(values, iccp(P3)), alpha="white")
        assert image[0, 0].tolist() == [255, 255, 255]
        assert np.abs(image - by_littlecms(VALUES, P3))[1:].max() <= 1

    def test_a_palette(self) -> None:
        palette = Image.fromarray(VALUES).quantize(64)
        file = io.BytesIO()
        palette.save(file, "PNG", icc_profile=P3)
        assert np.abs(read(file.getvalue()) - by_littlecms(np.asarray(palette.convert("RGB")), P3)).max() <= 1

    @pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
    def test_cmyk_needs_its_profile(self, kind: str) -> None:
        image = Image.fromarray(VALUES).convert("CMYK")

        def content(**options: object) -> bytes:
            file = io.BytesIO()
            image.save(file, kind, **options)
            return file.getvalue()

        profile = table_profile(b"CMYK", 4)
        with Image.open(io.BytesIO(content(icc_profile=profile))) as stored:
            to_srgb = ImageCms.buildTransform(
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                "CMYK",
                "RGB",
                ImageCms.Intent.RELATIVE_COLORIMETRIC,
                ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
            expected = np.asarray(ImageCms.applyTransform(stored, to_srgb)).astype(int)
        assert np.abs(read(content(icc_profile=profile)) - expected).max() <= 1
        for options in ({}, {"icc_profile": rgb_profile(SRGB)}):
            with pytest.raises(ScoringError, match="x: CMYK without a colour profile of its own: convert it"):
                read(content(**options))
        with pytest.raises(ScoringError, match=r"x: CMYK: .*use colour='convert'"):
            read(content(icc_profile=profile), colour="ignore")

    def test_lab_is_converted_by_its_definition(self) -> None:
        tifffile = pytest.importorskip("tifffile")
        y, x = np.mgrid[:12, :16]
        lab = np.stack([30 + 4 * y, 2 * x - 16, 3 * y - 16], -1).astype(float)
        stored = np.stack([np.rint(lab[..., 0] * 2.55), *(lab[..., 1:] % 256).transpose(2, 0, 1)], -1).astype(np.uint8)
        file = io.BytesIO()
        tifffile.imwrite(file, stored, photometric="cielab")
        # by the definition of CIE Lab
        f = (lab[..., 0] + 16) / 116
        roots = np.stack([f + lab[..., 1] / 500, f, f - lab[..., 2] / 200], -1)
        xyz = np.where(roots > 6 / 29, roots**3, 3 * (6 / 29) ** 2 * (roots - 4 / 29)) * (0.9642, 1, 0.8249)
        expected = light(np.clip(xyz @ np.linalg.inv(SRGB), 0, 1))
        for how in ("convert", "ignore"):
            off = np.abs(read(file.getvalue(), colour=how) - expected)
            assert (off.mean(), off.max()) < (1, 5)

    @pytest.mark.parametrize(
        ("profile", "message"),
        [
            (b"x" * 300, "its colour profile cannot be read"),
            (P3[:200], "its colour profile cannot be read"),
            (grey_profile(2.2), "its colour profile is one of GRAY, not of RGB"),
        ],
        ids=["noise", "cut off", "grey"],
    )
    @pytest.mark.parametrize("values", [VALUES, DEEP], ids=["8", "16"])
    def test_one_that_cannot_be_read_is_a_note(self, values: np.ndarray, profile: bytes, message: str) -> None:
        image = noted(png(values, iccp(profile)), message)
        assert np.array_equal(image, read(png(values)))

    def test_tables_are_for_eight_bits(self) -> None:
        profile = table_profile(b"RGB ", 3)
        assert np.ptp(read(png(VALUES, iccp(profile))), axis=2).max() == 0
        with pytest.raises(ScoringError, match="more than 8 bits a channel, and its profile has tables: convert"):
            read(png(DEEP, iccp(profile)))
        assert np.array_equal(read(png(DEEP, iccp(profile)), colour="ignore"), read(png(DEEP)))

    def test_one_of_hdr(self) -> None:
        profile = rgb_profile(DISPLAY_P3, cicp=b"cicp" + bytes(4) + bytes([9, 16, 0, 1]))
        for values in (VALUES, DEEP):
            with pytest.raises(ScoringError, match=r"x: HDR \(PQ\)"):
                read(png(values, iccp(profile)))

    def test_a_large_one(self) -> None:
        profile = rgb_profile(DISPLAY_P3, priv=bytes(3 << 20))
        assert np.array_equal(noted(png(VALUES, iccp(profile)), "some of its metadata"), read(png(VALUES, iccp(P3))))


class TestNumbers:
    @pytest.mark.parametrize("values", [VALUES, DEEP], ids=["8", "16"])
    @pytest.mark.parametrize(
        ("chunks", "expected"),
        [
            ([(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100_000))], VALUES),
            ([(b"gAMA", struct.pack(">I", 45_455))], VALUES),
            ([(b"gAMA", struct.pack(">I", 100_000))], light(VALUES / 255)),
            ([(b"gAMA", struct.pack(">I", 55_556))], light((VALUES / 255) ** 1.8)),
            ([(b"cHRM", CHROMATICITIES)], by_littlecms(VALUES, P3)),
            ([(b"cHRM", CHROMATICITIES), (b"gAMA", struct.pack(">I", 45_455))], by_littlecms(VALUES, P3)),
            ([(b"cICP", bytes([12, 13, 0, 1]))], by_littlecms(VALUES, P3)),
            ([(b"cICP", bytes([1, 8, 0, 1]))], light(VALUES / 255)),
            ([(b"cICP", bytes([1, 1, 0, 1]))], VALUES),
            ([(b"cICP", bytes([2, 2, 0, 1]))], VALUES),
            ([(b"cICP", bytes([1, 13, 0, 1])), iccp(P3)], VALUES),
            ([iccp(P3), (b"gAMA", struct.pack(">I", 100_000))], by_littlecms(VALUES, P3)),
        ],
        ids=[
            *("sRGB before gAMA", "gAMA of sRGB", "linear", "gamma 1.8", "cHRM", "cHRM and gAMA"),
            *("cICP", "cICP linear", "cICP of video", "cICP unstated", "cICP before iCCP", "iCCP before gAMA"),
        ],
    )
    def test_of_png(self, values: np.ndarray, chunks: list[tuple[bytes, bytes]], expected: np.ndarray) -> None:
        assert np.abs(read(png(values, *chunks)) - expected).max() < 1.1
        assert np.array_equal(read(png(values, *chunks), colour="ignore"), read(png(values)))

    @pytest.mark.parametrize(
        ("numbers", "message"),
        [
            ((9, 16, 0, 1), r"HDR \(PQ\): bring it to SDR first, .* or use colour='ignore'"),
            ((9, 18, 0, 1), r"HDR \(HLG\)"),
            ((99, 1, 0, 1), "colours of primaries 99 and transfer 1 .* use colour='ignore'"),
            ((1, 13, 0, 0), "its cICP chunk says YCbCr or a narrow range"),
        ],
        ids=["PQ", "HLG", "unknown", "narrow"],
    )
    def test_that_are_refused(self, numbers: tuple[int, ...], message: str) -> None:
        for values in (VALUES, DEEP):
            content = png(values, (b"cICP", bytes(numbers)))
            with pytest.raises(ScoringError, match=f"x: {message}"):
                read(content)
            assert np.array_equal(read(content, colour="ignore"), read(png(values)))

    @pytest.mark.filterwarnings("ignore::damlpips.scoring.reading.FileWarning")  # Pillow cannot read them, either
    @pytest.mark.parametrize("kind", [b"gAMA", b"cHRM", b"sRGB", b"cICP", b"iCCP"])
    @pytest.mark.parametrize("length", [0, 1, 3])
    def test_chunks_that_are_too_short_are_a_note(self, kind: bytes, length: int) -> None:
        if (kind, length) == (b"sRGB", 1):
            pytest.skip("is as long as it should be")
        image = noted(png(VALUES, (kind, bytes(length))), f"its {kind.decode()} chunk cannot be read: .* sRGB")
        assert np.array_equal(image, VALUES)

    @pytest.mark.parametrize(
        "chunk",
        [(b"gAMA", bytes(4)), (b"cHRM", bytes(32)), (b"cHRM", b"\0\1\0\0" * 8)],
        ids=["0", "no light", "one light"],
    )
    def test_that_make_no_sense_are_a_note(self, chunk: tuple[bytes, bytes]) -> None:
        assert np.array_equal(noted(png(VALUES, chunk), ".*: its colours are taken as sRGB"), VALUES)

    @pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
    @pytest.mark.parametrize(
        ("numbers", "found"), [((12, 13), "P3"), ((1, 13), "sRGB"), ((9, 16), r"HDR \(PQ\)"), ((9, 18), r"HDR \(HLG\)")]
    )
    def test_of_avif(self, numbers: tuple[int, int], found: str) -> None:
        content = saved("AVIF", quality=100, subsampling="4:4:4")
        at = content.index(b"colrnclx") + 8
        content = content[:at] + struct.pack(">HH", *numbers) + content[at + 4 :]
        plain = read(content, colour="ignore")
        if found.startswith("HDR"):
            with pytest.raises(ScoringError, match=f"x: {found}"):
                read(content)
            return
        expected = by_littlecms(plain.astype(np.uint8), P3) if found == "P3" else plain
        assert np.abs(read(content) - expected).max() <= 1

    @pytest.mark.parametrize(
        ("colour_space", "index", "expected"),
        [(0xFFFF, b"R03\0", "Adobe"), (2, b"R03\0", "Adobe"), (1, b"R98\0", "sRGB"), (0xFFFF, b"R98\0", "sRGB")],
    )
    def test_adobe_rgb_of_a_camera(self, colour_space: int, index: bytes, expected: str) -> None:
        # three directories: of the picture, of Exif, and of interoperability
        exif = b"Exif\0\0II*\0" + struct.pack("<I", 8)
        exif += struct.pack("<HHHIII", 1, 0x8769, 4, 1, 26, 0)
        exif += struct.pack("<HHHIIHHIII", 2, 0xA001, 3, 1, colour_space, 0xA005, 4, 1, 56, 0)
        exif += struct.pack("<HHHI4sI", 1, 1, 2, 4, index, 0)
        content = saved("JPEG", pixels(1), quality=100, subsampling=0, exif=exif)
        plain = read(content, colour="ignore")
        want = by_littlecms(plain.astype(np.uint8), ADOBE) if expected == "Adobe" else plain
        assert np.abs(read(content) - want).max() <= 1

    @pytest.mark.parametrize("values", [VALUES, DEEP], ids=["8", "16"])
    def test_of_tiff(self, values: np.ndarray) -> None:
        tifffile = pytest.importorskip("tifffile")

        def content(white: tuple[int, ...], lights: tuple[int, ...], *more: tuple[object, ...]) -> bytes:
            file = io.BytesIO()
            tags = [(318, "2I", 2, white, True), (319, "2I", 6, lights, True), *more]
            tifffile.imwrite(file, values, photometric="rgb", extratags=tags, metadata=None)
            return file.getvalue()

        numbers = [part for number in NUMBERS_OF_P3 for part in (round(10_000 * number), 10_000)]
        stated = content(tuple(numbers[:4]), tuple(numbers[4:]))
        assert np.abs(read(stated) - by_littlecms(VALUES, P3)).max() < 1.1
        assert np.array_equal(read(stated, colour="ignore"), read(png(values)))
        assert np.array_equal(noted(content((0, 0) * 2, (0, 0) * 6), ".*taken as sRGB"), read(png(values)))

    def test_of_bmp(self) -> None:
        rows = VALUES[::-1, :, ::-1].tobytes()
        head = struct.pack("<IiiHHIIiiII", 124, 16, 12, 1, 24, 0, len(rows), 0, 0, 0, 0) + bytes(16)
        head += b"DEBM" + bytes(48) + struct.pack("<IIII", 4, 124 + len(rows), len(P3), 0)
        content = b"BM" + struct.pack("<IHHI", 14 + 124 + len(rows) + len(P3), 0, 0, 14 + 124) + head + rows + P3
        assert np.abs(read(content) - by_littlecms(VALUES, P3)).max() <= 1
        assert np.array_equal(read(content, colour="ignore"), VALUES)


class TestSpaces:
    def test_light_of_primaries_is_that_of_their_profile(self) -> None:
        for numbers, columns in (
            (NUMBERS_OF_P3, DISPLAY_P3),
            ((0.3127, 0.3290, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06), SRGB),
        ):
            assert np.abs(Space.of(numbers).matrix.T - np.array(columns)).max() < 3e-4

    def test_memory_is_that_of_a_few_rows(self) -> None:
        image = np.zeros((3000, 1000, 3), np.uint8)
        assert converted_by(adobe_rgb(), image).shape == image.shape

    def test_curves(self) -> None:
        values = np.linspace(0, 1, 9)[:, None].repeat(3, 1)
        space = Space.of((0.3127, 0.3290, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06), power(2.0))
        assert np.abs(255 * space.to_srgb(values) - light(values**2)).max() < 0.01
        assert not space.is_srgb()


def test_nothing_is_said_of_sound_files(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(VALUES, iccp(P3), (b"gAMA", struct.pack(">I", 45_455))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_image(tmp_path / "a.png")
