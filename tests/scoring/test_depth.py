"""Every format that is read keeps the depth, planes, byte order and channels of a file that another library wrote."""

import io
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from damlpips.scoring.images import ScoringError, decode_image
from damlpips.scoring.videos import read_frames
from tests.support import pictures
from tests.support.profiles import png

tifffile = pytest.importorskip("tifffile")

HEIGHT, WIDTH = 37, 45


def noise(bits: int, channels: int = 3) -> np.ndarray:
    kind = np.dtype(f"u{1 if bits <= 8 else 2 if bits <= 16 else 4}")
    return np.random.default_rng(bits + channels).integers(0, 2**bits, (HEIGHT, WIDTH, channels), kind)


def tiff(values: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    try:
        tifffile.imwrite(file, values[..., 0] if values.shape[-1] == 1 else values, metadata=None, **options)
    except (ValueError, NotImplementedError) as error:
        pytest.skip(f"tifffile: {error}")
    return file.getvalue()


def read(content: bytes, **options: object) -> np.ndarray:
    """Return the pixels (H, W, 3) from 0 to 1."""
    image = decode_image(content, "x", deep=True, **options).permute(1, 2, 0)
    return image.numpy() / (255 if image.dtype == torch.uint8 else 1)


def same(content: bytes, values: np.ndarray, top: float) -> None:
    """Check that a file holds values, to the last bit of each."""
    expected = np.broadcast_to(values / top, (*values.shape[:2], 3))
    assert np.abs(read(content) - expected).max() < 0.01 / top + 1e-7


KINDS = {
    "grey": (1, "minisblack", None),
    "white is zero": (1, "miniswhite", None),
    "grey and opacity": (2, "minisblack", ["unassalpha"]),
    "rgb": (3, "rgb", None),
    "rgb and opacity": (4, "rgb", ["unassalpha"]),
    "rgb and something": (4, "rgb", ["unspecified"]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("predictor", [False, True], ids=["", "predictor"])
def test_tiff(kind: str, bits: int, order: str, planar: str, predictor: bool) -> None:
    channels, photometric, extra = KINDS[kind]
    values = noise(bits, channels)
    top = 2**bits - 1
    if extra == ["unassalpha"]:
        values[..., -1] = top
    colours = values[..., : 1 if channels < 3 else 3]
    expected = top - colours if photometric == "miniswhite" else colours
    for compression, tile, big in product((None, "zlib"), (None, (16, 32)), (False, True)):
        content = tiff(
            np.moveaxis(values, -1, 0) if planar == "separate" and channels > 1 else values,
            byteorder=order,
            photometric=photometric,
            planarconfig=planar if channels > 1 else None,
            extrasamples=extra,
            compression=compression,
            predictor=predictor and compression is not None,
            tile=tile,
            rowsperstrip=None if tile else 7,
            bigtiff=big,
        )
        same(content, expected, top)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate", "lzma", "zstd"])
def test_tiff_that_libtiff_compressed(compression: str) -> None:
    file = io.BytesIO()
    values = noise(16, 1)
    Image.fromarray(values[..., 0]).save(file, "TIFF", compression=compression)
    same(file.getvalue(), values, 65535)


@pytest.mark.parametrize("planar", [1, 2], ids=["together", "planes"])
@pytest.mark.parametrize("predictor", [1, 2], ids=["", "predictor"])
@pytest.mark.parametrize("compression", [5, 32946], ids=["lzw", "deflate"])
def test_tiff_that_opencv_wrote(compression: int, predictor: int, planar: int) -> None:
    cv2 = pytest.importorskip("cv2")
    values = noise(16)
    options = [cv2.IMWRITE_TIFF_COMPRESSION, compression, cv2.IMWRITE_TIFF_PREDICTOR, predictor]
    done, content = cv2.imencode(".tiff", values[..., ::-1].copy(), options)
    assert done
    same(content.tobytes(), values, 65535)


def packed(values: np.ndarray, bits: int) -> bytes:
    """Return rows whose numbers follow each other bit by bit, the highest first."""
    single = (values[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return b"".join(np.packbits(row.reshape(-1).astype(np.uint8)).tobytes() for row in single)


@pytest.mark.parametrize("bits", [3, 6, *range(9, 16)])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 3])
def test_tiff_of_packed_numbers(bits: int, order: str, channels: int) -> None:
    values = noise(bits, channels)
    photometric = "rgb" if channels == 3 else "minisblack"
    rows = packed(values, bits)
    width = len(rows) // HEIGHT
    blank = np.frombuffer(rows, np.uint8).reshape(HEIGHT, width, 1)
    # a file of bytes whose tags are then changed
    content = io.BytesIO(tiff(blank, photometric="minisblack", byteorder=order))
    with tifffile.TiffFile(content, mode="r+b") as file:
        tags = file.pages[0].tags
        tags["ImageWidth"].overwrite(WIDTH)
        tags["BitsPerSample"].overwrite(bits if channels == 1 else (bits,) * channels)
        tags["SamplesPerPixel"].overwrite(channels)
        tags["PhotometricInterpretation"].overwrite(2 if photometric == "rgb" else 1)
    if bits > 8:
        same(content.getvalue(), values, 2**bits - 1)
    else:
        expected = np.broadcast_to(values / (2**bits - 1), (*values.shape[:2], 3))
        assert np.abs(read(content.getvalue()) - expected).max() < 0.51 / 255


@pytest.mark.parametrize(
    ("values", "photometric", "message"),
    [
        (noise(8).astype(np.float16), "rgb", "RGB, floating-point numbers of 16 bits, whose black and white"),
        (noise(8).astype(np.float32), "rgb", "RGB, floating-point numbers of 32 bits, .*save it as integers"),
        (noise(8, 1).astype(np.float32), "minisblack", "grey, floating-point numbers of 32 bits"),
        (noise(8).astype(np.float64), "rgb", "RGB, floating-point numbers of 64 bits"),
        (noise(8).astype(np.int16), "rgb", "RGB, signed whole numbers of 16 bits"),
        (noise(7, 1).astype(np.int8), "minisblack", "grey, signed whole numbers of 8 bits"),
        (noise(8).astype(np.uint64), "rgb", "more than 8 bits a channel .RGB, whole numbers of 64 bits"),
        (noise(16, 4), "separated", "more than 8 bits a channel .CMYK, whole numbers of 16 bits"),
        (noise(16), "cielab", "more than 8 bits a channel .Lab, whole numbers of 16 bits"),
        (np.stack([noise(16)] * 2), "rgb", "several frames or pages"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tiff_that_would_have_to_be_guessed(values: np.ndarray, photometric: str, message: str) -> None:
    with pytest.raises(ScoringError, match=f"x: {message}"):
        read(tiff(values, photometric=photometric))


def test_damaged_pixels_of_a_deep_tiff_are_an_error() -> None:
    for options in ({}, {"compression": "zlib"}, {"tile": (16, 16)}):
        content = tiff(np.moveaxis(noise(16), -1, 0), photometric="rgb", planarconfig="separate", **options)
        with pytest.raises(ScoringError, match="x: damaged image"):
            read(content[:-500])


def test_colours_that_are_multiplied_by_their_opacity() -> None:
    values = noise(16, 4).astype(float)
    values[..., 3] = np.maximum(values[..., 3], 20000)
    opacity = values[..., 3:] / 65535
    content = tiff(
        np.rint(np.concatenate([values[..., :3] * opacity, values[..., 3:]], 2)).astype(np.uint16),
        photometric="rgb",
        extrasamples=["assocalpha"],
    )
    with pytest.raises(ScoringError, match="has transparent pixels"):
        read(content)
    expected = values[..., :3] / 65535 * opacity + 1 - opacity
    assert np.abs(read(content, alpha="white") - expected).max() < 1e-4


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [8, 16])
def test_png(channels: int, bits: int) -> None:
    values = noise(bits, channels)
    if channels in (2, 4):
        values[..., -1] = 2**bits - 1
    same(png(values), values[..., : 1 if channels < 3 else 3], 2**bits - 1)


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".ppm"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_of_opencv(suffix: str, channels: int) -> None:
    cv2 = pytest.importorskip("cv2")
    if suffix == ".ppm" and channels == 4:
        pytest.skip("PPM has no opacity")
    values = noise(16, channels)
    if channels == 4:
        values[..., 3] = 65535
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
    done, content = cv2.imencode(".pgm" if (suffix, channels) == (".ppm", 1) else suffix, values[..., order].copy())
    assert done
    same(content.tobytes(), values[..., :3], 65535)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_colour_of_sixteen_bits_that_is_transparent(channels: int) -> None:
    values = noise(16, channels)
    clear = values[3, 4]
    content = png(values, (b"tRNS", clear.astype(">u2").tobytes()))
    with pytest.raises(ScoringError, match="has transparent pixels"):
        read(content)
    image = read(content, alpha="white")
    assert image[3, 4].tolist() == [1, 1, 1]
    # the others differ from it in their low bytes at least
    assert np.abs(image - np.broadcast_to(values / 65535, image.shape))[:3].max() < 1e-6


@pytest.mark.parametrize("top", [1, 100, 255, 256, 1023, 4095, 65535])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("plain", [False, True], ids=["binary", "text"])
def test_pnm(top: int, channels: int, plain: bool) -> None:
    values = noise(16, channels).astype(int) % (top + 1)
    number = {(1, False): 5, (3, False): 6, (1, True): 2, (3, True): 3}[channels, plain]
    head = f"P{number}\n# a comment\n{WIDTH} {HEIGHT}\n{top}\n".encode()
    binary = values.astype(">u2" if top > 255 else "u1").tobytes()
    content = head + (" ".join(map(str, values.ravel())).encode() if plain else binary)
    expected = values if top > 255 else np.rint(values * 255 / top)
    assert np.abs(read(content) - expected / (top if top > 255 else 255)).max() < (1e-6 if top > 255 else 1.1 / 255)
    if top > 255:
        damaged = content.rsplit(b" ", 3)[0] if plain else content[:-3]
        with pytest.raises(ScoringError, match="x: damaged image"):
            read(damaged)
        with pytest.raises(ScoringError, match="x: more than 8 bits a channel"):
            decode_image(content, "x")


def avif(pixel_format: str, values: np.ndarray, **colours: int) -> bytes:
    """Return an AVIF of one plane repeated, or of grey, as FFmpeg writes it."""
    pytest.importorskip("av")
    if not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    return pictures.avif(pixel_format, values, **colours)


@pytest.mark.parametrize("full", [True, False], ids=["full", "narrow"])
def test_avif_of_ten_bits(tmp_path: Path, full: bool) -> None:
    y, x = np.mgrid[:64, :64]
    low, span = (0, 1023) if full else (64, 876)
    values = (low + (x + y) % (span + 1)).astype(np.uint16)
    values[0, :2] = low, low + span
    content = avif("yuv420p10le", values, color_range=2 if full else 1)
    # without colour, so that the matrix says nothing
    assert np.abs(read(content) - ((values - float(low)) / span)[..., None]).max() < 0.2 / 255
    with pytest.raises(ScoringError, match=r"x: more than 8 bits a channel \(10 in an AVIF\)"):
        decode_image(content, "x")


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_avif_in_hdr(tmp_path: Path, transfer: int, name: str) -> None:
    values = np.full((64, 64), 500, np.uint16)
    content = avif("yuv420p10le", values, color_trc=transfer, color_primaries=9, colorspace=9)
    with pytest.raises(ScoringError, match=rf"x: HDR \({name}\): bring it to SDR first"):
        read(content)
    assert np.abs(read(content, colour="ignore") - 500 / 1023).max() < 0.002


def test_avif_of_ten_bits_without_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = avif("yuv420p10le", np.full((64, 64), 500, np.uint16))
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ScoringError, match=r"x: 10 bits a channel: .*pip install 'damlpips\[video\]'"):
        read(content)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"\xff\xd8\xff\xe0\0\4ab" + b"\xff\xc1\0\x0b\x0c\0\4\0\4\1\1\x11\0", r"JPEG \(extended, 12 bits a channel\)"),
        (b"\xff\xd8" + b"\xff\xc3\0\x0b\x10\0\4\0\4\1\1\x11\0", r"JPEG \(lossless, 16 bits a channel\)"),
        (b"PF\n4 4\n-1\n" + bytes(192), "is PFM, floating-point numbers of 32 bits"),
        (b"Pf\n4 4\n-1\n" + bytes(64), "floating-point numbers of 32 bits, whose black and white"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "is HEIC, which is not read: convert it"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic" + bytes(40), "is HEIC, which is not read: convert it"),
        (b"\xff\x0a" + bytes(40), "is JPEG XL, which is not read"),
        (b"P7\nWIDTH 4\n", "is PAM, which is not read"),
        (b"\x76\x2f\x31\x01" + bytes(40), "is OpenEXR, which is not read"),
        (b"#?RADIANCE\n", "is Radiance HDR, which is not read"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_kinds_that_are_not_read_are_named(head: bytes, message: str) -> None:
    with pytest.raises(ScoringError, match=f"x: {message}"):
        read(head)


def test_png_of_ffmpeg() -> None:
    av = pytest.importorskip("av")
    values = noise(16)
    frame = av.VideoFrame.from_ndarray(values, format="rgb48be")
    context = av.CodecContext.create("png", "w")
    context.width, context.height, context.pix_fmt, context.time_base = WIDTH, HEIGHT, "rgb48be", Fraction(1)
    packets = [*context.encode(frame), *context.encode(None)]
    same(b"".join(bytes(packet) for packet in packets), values, 65535)


VIDEO_FORMATS = {
    "gray": 8,
    "yuv420p": 8,
    "yuv444p": 8,
    "yuva420p": 8,
    "gray10le": 10,
    "gray12le": 12,
    "gray16le": 16,
    "yuv420p9le": 9,
    "yuv420p10le": 10,
    "yuv422p10le": 10,
    "yuv444p12le": 12,
    "yuv444p14le": 14,
    "yuv444p16le": 16,
}


@pytest.mark.parametrize("full", [True, False], ids=["full", "narrow"])
@pytest.mark.parametrize("kind", VIDEO_FORMATS)
def test_black_grey_and_white_of_a_video(tmp_path: Path, kind: str, full: bool) -> None:
    av = pytest.importorskip("av")
    bits = VIDEO_FORMATS[kind]
    low, span = (0, 2**bits - 1) if full else (16 << bits - 8, 219 << bits - 8)
    levels = [low, low + span // 2, low + span]
    unit = "<u2" if bits > 8 else "u1"
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 32, kind
        stream.codec_context.color_range, stream.codec_context.colorspace = 2 if full else 1, 1
        for level in levels:
            frame = av.VideoFrame(32, 32, kind)
            # brightness, two planes without colour, opacity
            for plane, value in zip(frame.planes, (level, 1 << bits - 1, 1 << bits - 1, 2**bits - 1), strict=False):
                row = np.full((plane.height, plane.line_size // np.dtype(unit).itemsize), value, unit)
                plane.update(row.tobytes())
            frame.color_range, frame.colorspace = stream.codec_context.color_range, 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    for level, frame in zip(levels, read_frames(tmp_path / "a.mkv"), strict=True):
        values = frame.pixels / (255 if frame.pixels.dtype == torch.uint8 else 1)
        step = 0.51 / 255 if bits == 8 else 1e-6
        assert (values - (level - low) / span).abs().max() <= step
