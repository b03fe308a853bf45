"""Read the frames of video files that may be anything, one after the other: what would have to be guessed is an error.

FFmpeg, which PyAV brings along, reads far more than videos: lists of other files, addresses, devices. It is therefore
told which container to expect, by the first bytes of a file, and gets an open file, which leads nowhere else.
"""

import errno
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple, NoReturn

import torch
from torch import Tensor

from damlpips.files import open_regular, size
from damlpips.scoring.images import ScoringError, opaque

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"),
    *(".ogv", ".flv", ".y4m"),
)
# FFmpeg's names of the containers, and how their files begin: (place, bytes), any of these
CONTAINERS = {
    "mov": [(4, b"ftyp"), (4, b"moov"), (4, b"mdat"), (4, b"wide"), (4, b"free"), (4, b"skip")],
    "matroska": [(0, b"\x1a\x45\xdf\xa3")],
    "avi": [(8, b"AVI ")],
    "mpegts": [(188, b"\x47"), (196, b"\x47")],
    "mpeg": [(0, b"\x00\x00\x01\xba")],
    "ogg": [(0, b"OggS")],
    "flv": [(0, b"FLV\x01")],
    "yuv4mpegpipe": [(0, b"YUV4MPEG2 ")],
}
SHOWN_CONTAINERS = "MP4, QuickTime, Matroska, WebM, AVI, MPEG-TS, MPEG-PS, Ogg, FLV, Y4M"
# FFmpeg's names; decoders for games' and cameras' formats of the nineties are where damaged files do harm
CODECS = (
    *("av1", "dnxhd", "ffv1", "ffvhuff", "flv1", "h263", "h264", "hevc", "huffyuv", "mjpeg", "mpeg1video"),
    *("mpeg2video", "mpeg4", "png", "prores", "qtrle", "rawvideo", "theora", "utvideo", "vp8", "vp9"),
)
DECODERS_OF_AV1 = ("libdav1d", "libaom-av1")
# twice an 8K frame
MOST_PIXELS = 1 << 26

# The matrix between YUV and RGB: FFmpeg's number of what a file says, and of what it is converted by
BT709, FCC, BT601, SMPTE170M, SMPTE240M, BT2020 = 1, 4, 5, 6, 7, 9
MATRICES = {n: n for n in (BT709, FCC, BT601, SMPTE240M, BT2020)} | {SMPTE170M: BT601}
RGB_MATRIX, UNTOLD, RESERVED = 0, 2, 3
# from this height on a video that does not say has BT.709, as players assume
HD = 720
LIMITED_RANGE, FULL_RANGE = 1, 2
HDR = {16: "PQ", 18: "HLG"}
# turns of 16.16 fixed-point numbers
ONE = 1 << 16
TURNS = {(ONE, 0, 0, ONE): 0, (0, -ONE, ONE, 0): 1, (-ONE, 0, 0, -ONE): 2, (0, ONE, -ONE, 0): 3}


class Frame(NamedTuple):
    """A frame's pixels, (3, H, W): uint8, or float32 in [0, 1] of more than 8 bits; its time in seconds, if known."""

    pixels: Tensor
    time: float


def pyav() -> ModuleType:
    """Return PyAV.

    Raises:
        ScoringError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ScoringError("reading video files needs PyAV: pip install 'damlpips[video]'") from error
    return av


def read_frames(path: Path, *, alpha: str = "error", threads: int = 1) -> Iterator[Frame]:
    """Yield the frames of the first video stream in the order in which they are shown; one at a time is in memory.

    Frames become RGB by the matrix and the range that the stream states: without a statement by BT.709 from 720 lines
    on, BT.601 below, and in limited range. They are turned as the file's metadata say. Frames of more than 8 bits a
    channel are float32, value / 65535 of 16 bits. Interlaced frames and pixels that are not square stay as they are.

    Args:
        path: the file.
        alpha: what becomes of transparent pixels, as for `read_image`.
        threads: of the decoder.

    Raises:
        ScoringError: PyAV is missing; the file is missing, no regular file, of another container or codec than the
            known ones, damaged or cut off where that can be told, without frames, with frames that are too large, in
            HDR, mirrored, or of colours that cannot be told; names the file.
    """
    av = pyav()
    count = 0
    with _opened(path, av) as (container, stream):
        _prepare(stream, path, threads)
        converter = _Converter(path, alpha)
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise ScoringError(f"{path}: damaged video (behind frame {count})")
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise ScoringError(f"{path}: damaged video (frame {count})")
                yield Frame(converter(frame, count), math.nan if frame.time is None else float(frame.time))
                count += 1
    if count == 0:
        raise ScoringError(f"{path}: a video without frames")


@contextmanager
def _opened(path: Path, av: ModuleType) -> Iterator[tuple[Any, Any]]:
    """Give a container and its video stream."""
    try:
        with open_regular(path) as file:
            name = _container_of(file, path)
            try:
                with av.open(file, "r", format=name, options=_limits(), io_open=_refuse) as container:
                    stream = _stream(container, path)
                    _check_length(stream, size(file), path)
                    yield container, stream
            except (av.error.FFmpegError, UnicodeDecodeError) as error:
                what = getattr(error, "strerror", None) or str(error)
                if getattr(error, "errno", None) == errno.EINVAL:  # what it says of max_pixels
                    what = f"or refused: frames of more than {MOST_PIXELS} pixels"
                raise ScoringError(f"{path}: damaged video ({what})") from error
    except MemoryError as error:
        raise ScoringError(f"{path}: not enough memory to read it") from error
    except OSError as error:
        raise ScoringError(f"{path}: {error.strerror or error}") from error


def _container_of(file: BinaryIO, path: Path) -> str:
    """Return FFmpeg's name of what a file is by its first bytes."""
    head = file.read(256)
    file.seek(0)
    if not head:
        raise ScoringError(f"{path}: the file is empty")
    for name, marks in CONTAINERS.items():
        if any(head[place : place + len(mark)] == mark for place, mark in marks):
            return name
    raise ScoringError(f"{path}: not a video of a known kind ({SHOWN_CONTAINERS})")


def _limits() -> dict[str, str]:
    """Return options that hold while FFmpeg looks at what a file holds, before anything here can."""
    return {
        "codec_whitelist": ",".join((*CODECS, *DECODERS_OF_AV1)),
        "protocol_whitelist": "none",
        "max_pixels": str(MOST_PIXELS),
    }


def _refuse(url: str, *_: object) -> NoReturn:
    """Open no file that another file names."""
    raise PermissionError(f"refused to open {url!r}, which the video names")


def _stream(container: Any, path: Path) -> Any:
    """Return the first video stream that is no cover picture."""
    for stream in container.streams.video:
        if "attached_pic" not in str(stream.disposition).lower():
            return stream
    raise ScoringError(f"{path}: holds no video")


def _check_length(stream: Any, length: int, path: Path) -> None:
    """Raise a ScoringError if the index of a file leads beyond its end, where this PyAV (17 or newer) shows it."""
    entries = getattr(stream, "index_entries", ())
    if max((entry.pos + entry.size for entry in entries), default=0) > length:
        raise ScoringError(f"{path}: damaged video (it was cut off: its index leads beyond its end)")


def _prepare(stream: Any, path: Path, threads: int) -> None:
    """Set up the decoder, unless the stream is not to be decoded."""
    context = stream.codec_context
    name = None if context is None else context.codec.canonical_name
    if name not in CODECS:
        raise ScoringError(f"{path}: codec {name}: expected one of {', '.join(CODECS)}")
    if context.width * context.height > MOST_PIXELS:
        raise ScoringError(f"{path}: refused, frames of {context.width} x {context.height} pixels")
    if (transfer := int(context.color_trc or 0)) in HDR:
        raise ScoringError(f"{path}: HDR ({HDR[transfer]}): bring it to SDR first, as it would be shown")
    context.options = {"max_pixels": str(MOST_PIXELS)}
    context.thread_type = "AUTO"
    context.thread_count = threads


class _Converter:
    """Turn frames into pixels."""

    def __init__(self, path: Path, alpha: str) -> None:
        from av.video.reformatter import Interpolation, VideoReformatter

        self._path, self._alpha = path, alpha
        self._reformatter = VideoReformatter()
        # the same bits whatever the processor, where this PyAV (17 or newer) can
        exact = "ACCURATE_RND", "BITEXACT"
        self._how = Interpolation.BILINEAR
        for name in exact if hasattr(Interpolation, exact[0]) else ():
            self._how |= Interpolation[name]

    def __call__(self, frame: Any, number: int) -> Tensor:
        """Return the pixels of a frame."""
        kind = frame.format
        bits = max((part.bits for part in kind.components), default=0)
        if not 0 < bits <= 16 or kind.name.startswith(("xyz", "bayer")):
            raise ScoringError(
                f"{self._path}: frame {number} has pixel format {kind.name!r}: convert it to 8 bit first"
            )
        # a palette may have transparent entries
        clear = kind.has_palette or any(part.is_alpha for part in kind.components)
        if bits > 8 and clear:
            raise ScoringError(f"{self._path}: more than 8 bits a channel with alpha: flatten it first")
        wanted = "rgba" if clear else "rgb24" if bits <= 8 else "rgb48le"
        table = self._reformatter.reformat(
            frame,
            format=wanted,
            src_colorspace=self._matrix(frame, number),
            src_color_range=FULL_RANGE if int(frame.color_range) == FULL_RANGE else LIMITED_RANGE,
            dst_color_range=FULL_RANGE,
            interpolation=self._how,
        ).to_ndarray()
        if clear:
            pixels = opaque(torch.from_numpy(table), self._path, self._alpha)
        elif bits > 8:
            pixels = torch.from_numpy(table.astype("float32")) / 65535
        else:
            pixels = torch.from_numpy(table)
        return torch.rot90(pixels, self._turns(frame), (0, 1)).permute(2, 0, 1).contiguous()

    def _matrix(self, frame: Any, number: int) -> int:
        stated = int(frame.colorspace)
        if frame.format.is_rgb or stated in (RGB_MATRIX, UNTOLD, RESERVED):
            return BT709 if frame.height >= HD else BT601
        if stated not in MATRICES:
            raise ScoringError(f"{self._path}: frame {number} has colours of kind {stated} (H.273): convert it first")
        return MATRICES[stated]

    def _turns(self, frame: Any) -> int:
        """Return how many quarters of a turn, against the clock, a frame is shown at."""
        for data in list(frame.side_data):
            if data.type.name == "DISPLAYMATRIX":
                a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data)[:36])
                if (turns := TURNS.get((a, b, c, d))) is None:
                    raise ScoringError(
                        f"{self._path}: is shown mirrored, scaled or at an angle by its metadata: make it anew as shown"
                    )
                return turns
        return 0
