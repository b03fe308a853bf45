"""Read untrusted video files frame by frame: whatever would have to be guessed is an error.

FFmpeg, which comes with PyAV, reads far more than videos: lists of other files, addresses, devices. So it is told which
container to expect, from the first bytes of the file, and is given an open file, which leads nowhere else.
"""

import errno
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor
from typing_extensions import Unpack

from damlpips.files import open_regular, size
from damlpips.scoring import containers, yuv
from damlpips.scoring.colour_profiles import HDR
from damlpips.scoring.images import ScoringError, opaque
from damlpips.scoring.reading import Reading, ReadingOptions
from damlpips.scoring.yuv import pyav as pyav

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"),
    *(".ogv", ".flv", ".y4m"),
)
# by FFmpeg's names
CONTAINERS: containers.Marks = {
    "mov": [(4, b"ftyp"), (4, b"moov"), (4, b"mdat"), (4, b"wide"), (4, b"free"), (4, b"skip")],
    "matroska": [(0, b"\x1a\x45\xdf\xa3")],
    "avi": [(8, b"AVI ")],
    "mpegts": [(188, b"\x47"), (196, b"\x47")],
    "mpeg": [(0, b"\x00\x00\x01\xba")],
    "ogg": [(0, b"OggS")],
    "flv": [(0, b"FLV\x01")],
    "yuv4mpegpipe": [(0, b"YUV4MPEG2 ")],
}
# FFmpeg's names. Damaged files do harm in rarely used decoders, such as those of games and cameras of the nineties.
CODECS = (
    *("av1", "dnxhd", "ffv1", "ffvhuff", "flv1", "h263", "h264", "hevc", "huffyuv", "mjpeg", "mpeg1video"),
    *("mpeg2video", "mpeg4", "png", "prores", "qtrle", "rawvideo", "theora", "utvideo", "vp8", "vp9"),
)
DECODERS_OF_AV1 = ("libdav1d", "libaom-av1")
# two 8K frames
MOST_PIXELS = 1 << 26

# The matrix between YUV and RGB: the number that a file states, and the one that FFmpeg converts with
BT709, FCC, BT601, SMPTE170M, SMPTE240M, BT2020 = 1, 4, 5, 6, 7, 9
MATRICES = {n: n for n in (BT709, FCC, BT601, SMPTE240M, BT2020)} | {SMPTE170M: BT601}
RGB_MATRIX, UNTOLD, RESERVED = 0, 2, 3
# from this height on players assume BT.709 for a video that states nothing
HD = 720
LIMITED_RANGE, FULL_RANGE = 1, 2
# rotations as matrices of 16.16 fixed-point numbers
ONE = 1 << 16
# quarter turns counter-clockwise as Exif numbers them
EXIF_ORIENTATIONS = (1, 8, 3, 6)
TURNS = {(ONE, 0, 0, ONE): 0, (0, -ONE, ONE, 0): 1, (-ONE, 0, 0, -ONE): 2, (0, ONE, -ONE, 0): 3}


class Frame(NamedTuple):
    """A frame.

    Attributes:
        pixels: (3, H, W), uint8, or float32 in [0, 1] for more than 8 bits.
        time: when it is shown, in seconds, or NaN.
        orientation: 1 if the pixels are as they were stored; otherwise the Exif orientation by which they were rotated.
    """

    pixels: Tensor
    time: float
    orientation: int = 1


def read_frames(path: Path, *, threads: int = 1, **options: Unpack[ReadingOptions]) -> Iterator[Frame]:
    """Yield the frames of the first video stream in the order in which they are shown; one at a time is in memory.

    Frames become RGB with the matrix and range that the stream states, otherwise with BT.709 from 720 lines on, BT.601
    below, and limited range. They are rotated as the file's metadata say. Frames with more than 8 bits a channel
    are float32. Interlaced frames and pixels that are not square stay as they are.

    Args:
        path: the file.
        threads: of the decoder.
        options: as for `read_image`, but `colour` and `max_pixels` say nothing about videos.

    Raises:
        ScoringError: PyAV is missing; the file is missing, not a regular file, in an unknown container or codec,
            visibly damaged or cut off, without frames, in HDR, mirrored, or has frames that are too large or unknown
            colours; names the file.
    """
    av = pyav()
    count = 0
    with _opened(path, av) as (container, stream):
        _prepare(stream, path, threads)
        converter = _Converter(path, Reading(**options))
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise ScoringError(f"{path}: damaged video (behind frame {count})")
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise ScoringError(f"{path}: damaged video (frame {count})")
                time = math.nan if frame.time is None else float(frame.time)
                yield converter(frame, count, time)
                count += 1
    if count == 0:
        raise ScoringError(f"{path}: a video without frames")


@contextmanager
def _opened(path: Path, av: ModuleType) -> Iterator[tuple[Any, Any]]:
    """Open a file; give the container and its video stream."""
    try:
        with open_regular(path) as file:
            name = _container_of(file, path)
            try:
                with av.open(file, "r", format=name, options=_limits(), io_open=yuv.refuse) as container:
                    stream = _stream(container, path)
                    _check_length(stream, size(file), path)
                    yield container, stream
            except (av.error.FFmpegError, UnicodeDecodeError) as error:
                what = getattr(error, "strerror", None) or str(error)
                if getattr(error, "errno", None) == errno.EINVAL:  # its error for more than max_pixels
                    what = f"or refused: frames of more than {MOST_PIXELS} pixels"
                raise ScoringError(f"{path}: damaged video ({what})") from error
    except MemoryError as error:
        raise ScoringError(f"{path}: not enough memory to read it") from error
    except OSError as error:
        raise ScoringError(f"{path}: {error.strerror or error}") from error


def _container_of(file: BinaryIO, path: Path) -> str:
    """Return FFmpeg's name for the container of a file, told by its first bytes."""
    head = file.read(256)
    file.seek(0)
    if not head:
        raise ScoringError(f"{path}: the file is empty")
    if (name := containers.kind_of(head, CONTAINERS)) is not None:
        return name
    known = "MP4, QuickTime, Matroska, WebM, AVI, MPEG-TS, MPEG-PS, Ogg, FLV, Y4M"
    raise ScoringError(f"{path}: not a video of a known kind ({known})")


def _limits() -> dict[str, str]:
    """Return options that limit FFmpeg while it probes a file, before anything here sees its contents."""
    return {
        "codec_whitelist": ",".join((*CODECS, *DECODERS_OF_AV1)),
        "protocol_whitelist": "none",
        "max_pixels": str(MOST_PIXELS),
    }


def _stream(container: Any, path: Path) -> Any:
    """Return the first video stream that is not a cover picture."""
    for stream in container.streams.video:
        if "attached_pic" not in str(stream.disposition).lower():
            return stream
    raise ScoringError(f"{path}: holds no video")


def _check_length(stream: Any, length: int, path: Path) -> None:
    """Raise a ScoringError if the index of a file points beyond its end; PyAV shows the index from version 17 on."""
    entries = getattr(stream, "index_entries", ())
    if max((entry.pos + entry.size for entry in entries), default=0) > length:
        raise ScoringError(f"{path}: damaged video (it was cut off: its index leads beyond its end)")


def _prepare(stream: Any, path: Path, threads: int) -> None:
    """Set up the decoder; raise a ScoringError for a stream that must not be decoded."""
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
    """Converts frames to pixels."""

    def __init__(self, path: Path, reading: Reading) -> None:
        self._path, self._reading = path, reading
        self._reformat = yuv.reformatter()

    def __call__(self, frame: Any, number: int, time: float) -> Frame:
        """Return a frame as it is to be scored."""
        import numpy as np

        kind = frame.format
        bits = yuv.bits_of(kind)
        if not 0 < bits <= 16 or kind.name.startswith(("xyz", "bayer")):
            raise ScoringError(
                f"{self._path}: frame {number} has pixel format {kind.name!r}: convert it to 8 bit first"
            )
        # a palette may have transparent entries
        clear = kind.has_palette or any(part.is_alpha for part in kind.components)
        if bits > 8 and clear:
            raise ScoringError(f"{self._path}: more than 8 bits a channel with alpha: flatten it first")
        full = int(frame.color_range) == FULL_RANGE
        if yuv.is_grey(kind) and (bits > 8 or int(frame.color_range) == LIMITED_RANGE):
            # FFmpeg stretches no grey
            grey = torch.from_numpy(yuv.grey(frame, full_range=int(frame.color_range) != LIMITED_RANGE))
            channels = (grey if bits > 8 else (grey * 255).round().to(torch.uint8)).expand(3, -1, -1)
        elif bits > 8 and not kind.is_rgb:
            table = yuv.rgb(frame, self._matrix(frame, number), full_range=full, reformat=self._reformat)
            channels = torch.from_numpy(table).permute(2, 0, 1)
        else:
            # planes, since FFmpeg leaves white at 253 in packed pixels
            planar = ("gbrap" if clear else "gbrp") if bits <= 8 else "gbrp16le"
            converted = self._reformat(
                frame,
                format="rgba" if kind.has_palette else planar,
                src_colorspace=self._matrix(frame, number),
                src_color_range=FULL_RANGE if full else LIMITED_RANGE,
                dst_color_range=FULL_RANGE,
            )
            if kind.has_palette:
                table = converted.to_ndarray().transpose(2, 0, 1)
            else:
                green, blue, red, *opacity = yuv.planes(converted)
                table = np.stack([red, green, blue, *opacity])
            channels = torch.from_numpy(table if bits <= 8 else table.astype(np.float32) / 65535)
            if clear:
                channels = opaque(channels.permute(1, 2, 0), self._path, self._reading.alpha).permute(2, 0, 1)
        turns = self._turns(frame) if self._reading.orientation == "apply" else 0
        turned = torch.rot90(channels, turns, (1, 2)).contiguous()
        return Frame(turned, time, EXIF_ORIENTATIONS[turns])

    def _matrix(self, frame: Any, number: int) -> int:
        stated = int(frame.colorspace)
        if frame.format.is_rgb or stated in (RGB_MATRIX, UNTOLD, RESERVED):
            return BT709 if frame.height >= HD else BT601
        if stated not in MATRICES:
            raise ScoringError(f"{self._path}: frame {number} has colours of kind {stated} (H.273): convert it first")
        return MATRICES[stated]

    def _turns(self, frame: Any) -> int:
        """Return by how many quarter turns, counter-clockwise, a frame is to be shown rotated."""
        # by name: PyAV's container gives its values when it is iterated before version 19, its keys from then on
        if (data := frame.side_data.get("DISPLAYMATRIX")) is None:
            return 0
        a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data)[:36])
        if (turns := TURNS.get((a, b, c, d))) is None:
            raise ScoringError(
                f"{self._path}: is shown mirrored, scaled or at an angle by its metadata: make it anew as shown"
            )
        return turns
