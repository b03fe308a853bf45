"""Video files are read frame by frame as they are shown; guesses and links to elsewhere are refused."""

import re
import sys
import weakref
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import ColorRange, Colorspace

from damlpips import DAMLPIPS
from damlpips.scoring import frames as scored_frames
from damlpips.scoring import videos, yuv
from damlpips.scoring.frames import check_frames, frame_files, iter_frames
from damlpips.scoring.images import ScoringError
from damlpips.scoring.pairs import Pair, find_pairs
from damlpips.scoring.scorer import score_pairs
from damlpips.scoring.videos import read_frames
from tests.support.videos import frame_folder, moving, noisy, set_matrix, video_file


def arrays(path: Path, **options: object) -> list[np.ndarray]:
    return [frame.pixels.permute(1, 2, 0).numpy() for frame in read_frames(path, **options)]


def refused(path: Path, message: str, **options: object) -> None:
    with pytest.raises(ScoringError, match=message) as caught:
        list(read_frames(path, **options))
    assert str(path) in str(caught.value)


class TestFrames:
    @pytest.mark.parametrize(
        ("name", "codec", "pixel_format", "error"),
        [
            ("v.mkv", "ffv1", "bgr0", 0),
            ("v.mp4", "mpeg4", "yuv420p", 12),
            ("v.mov", "libx264", "yuv420p", 12),
            ("v.avi", "mjpeg", "yuvj420p", 12),
            ("v.webm", "libvpx-vp9", "yuv420p", 12),
            ("v.ts", "mpeg2video", "yuv420p", 12),
            ("v.y4m", "wrapped_avframe", "yuv420p", 12),
            ("wrong.mp4", "ffv1", "bgr0", 0),
        ],
    )
    def test_are_those_that_were_written(
        self, tmp_path: Path, name: str, codec: str, pixel_format: str, error: float
    ) -> None:
        frames = moving(1)
        made = video_file(tmp_path / name.replace("wrong.mp4", "v.mkv"), frames, codec, pixel_format)
        found = list(read_frames(made.rename(tmp_path / name)))  # the contents count, not the name
        assert [f.pixels.dtype for f in found] == [torch.uint8] * 6
        far = [
            np.abs(f.pixels.permute(1, 2, 0).numpy().astype(int) - g).mean() for f, g in zip(found, frames, strict=True)
        ]
        assert max(far) <= error
        assert np.diff([f.time for f in found]) == pytest.approx([0.04] * 5, abs=1e-3)

    def test_more_than_8_bits_are_kept(self, tmp_path: Path) -> None:
        ramp = np.broadcast_to(np.arange(0, 192, dtype=np.uint16)[None, :, None] * 40, (32, 192, 3))
        experimental = {"strict": "experimental"}
        file = video_file(tmp_path / "v.mkv", [ramp], "ffv1", "gbrp16le", given="rgb48le", options=experimental)
        (frame,) = read_frames(file)
        assert frame.pixels.dtype == torch.float32
        assert torch.equal(frame.pixels[0, 0], torch.arange(192) * 40 / 65535)

    @pytest.mark.parametrize("degrees", [90, 180, -90])
    def test_are_turned_as_players_turn_them(self, tmp_path: Path, degrees: int) -> None:
        frames = moving(2)
        plain = arrays(video_file(tmp_path / "plain.mp4", frames, "mpeg4", "yuv420p"))
        turned = arrays(video_file(tmp_path / "turned.mp4", frames, "mpeg4", "yuv420p", rotation=degrees))
        for a, b in zip(plain, turned, strict=True):
            assert np.array_equal(np.rot90(a, degrees // 90), b)

    def test_other_turns_are_refused(self, tmp_path: Path) -> None:
        frames = moving(2)
        refused(video_file(tmp_path / "v.mp4", frames, "mpeg4", "yuv420p", rotation=45), "mirrored, scaled or at an")
        file = video_file(tmp_path / "m.mp4", frames, "mpeg4", "yuv420p")
        set_matrix(file, (-65536, 0, 0, 65536))
        refused(file, "mirrored")

    def test_colours_by_what_the_stream_says(self, tmp_path: Path) -> None:
        """(Y, U, V) = (145, 54, 34) is green by BT.601, and a darker one by BT.709 or in full range."""

        def colour(name: str, size: tuple[int, int] = (32, 32), **tags: object) -> list[int]:
            planes = np.stack([np.full(size, value, np.uint8) for value in (145, 54, 34)])
            file = video_file(tmp_path / name, [planes], "ffv1", "yuv444p", given="yuv444p", **tags)
            return arrays(file)[0][5, 5].tolist()

        bt601, bt709, full = [0, 255, 1], [0, 216, 0], [13, 238, 14]
        assert colour("untold.mkv") == pytest.approx(bt601, abs=2)
        assert colour("601.mkv", colorspace=Colorspace.ITU601) == pytest.approx(bt601, abs=2)
        assert colour("709.mkv", colorspace=Colorspace.ITU709) == pytest.approx(bt709, abs=2)
        assert colour("full.mkv", color_range=ColorRange.JPEG) == pytest.approx(full, abs=2)
        assert colour("hd.mkv", (720, 32)) == pytest.approx(bt709, abs=2)
        assert colour("hd601.mkv", (720, 32), colorspace=Colorspace.ITU601) == pytest.approx(bt601, abs=2)
        file = video_file(tmp_path / "v.mp4", moving(1), "libx264", "yuv420p", options={"colorspace": "ictcp"})
        refused(file, "colours of kind 14")

    def test_hdr_is_refused(self, tmp_path: Path) -> None:
        file = video_file(tmp_path / "v.mp4", moving(1), "libx264", "yuv420p", color_trc=16)
        refused(file, r"HDR \(PQ\)")

    def test_transparent_pixels(self, tmp_path: Path) -> None:
        clear = np.full((32, 32, 4), 128, np.uint8)
        for name, alpha in (("clear", 128), ("solid", 255)):
            clear[..., 3] = alpha
            video_file(tmp_path / f"{name}.mkv", [clear], "ffv1", "bgra", given="rgba")
        refused(tmp_path / "clear.mkv", "has transparent pixels")
        assert arrays(tmp_path / "solid.mkv")[0].tolist() == np.full((32, 32, 3), 128).tolist()
        assert arrays(tmp_path / "clear.mkv", alpha="white")[0][0, 0, 0] == pytest.approx(191, abs=1)


class TestRefusals:
    def test_lists_of_other_files_are_not_followed(self, tmp_path: Path) -> None:
        video_file(tmp_path / "secret.mp4", moving(1), "mpeg4", "yuv420p")
        lists = {
            "concat": "ffconcat version 1.0\nfile 'secret.mp4'\n",
            "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.mp4\n#EXT-X-ENDLIST\n",
        }
        for name, content in lists.items():
            file = tmp_path / f"{name}.mp4"
            file.write_text(content)
            with av.open(str(file), format=name, options={"safe": "0", "allowed_extensions": "ALL"}) as container:
                assert sum(1 for _ in container.decode(video=0)) == 6  # FFmpeg alone would read the other file
            refused(file, "not a video of a known kind")

    def test_files_that_a_video_names_are_not_opened(self) -> None:
        with pytest.raises(PermissionError, match="refused to open 'http://there'"):
            yuv.refuse("http://there", 1, {})
        assert videos._limits()["protocol_whitelist"] == "none"

    def test_other_codecs(self, tmp_path: Path) -> None:
        file = video_file(tmp_path / "v.avi", moving(1), "msmpeg4", "yuv420p")
        refused(file, "codec msmpeg4v3: expected one of av1")

    def test_frames_too_large(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = video_file(tmp_path / "v.mp4", moving(1), "mpeg4", "yuv420p")
        monkeypatch.setattr(videos, "MOST_PIXELS", 40 * 48 - 1)
        refused(file, r"refused.* frames of (48 x 40|more than 1919) pixels")

    @pytest.mark.parametrize(("name", "codec"), [("v.mp4", "mpeg4"), ("v.avi", "mjpeg")])
    def test_cut_off(self, tmp_path: Path, name: str, codec: str) -> None:
        file = video_file(tmp_path / name, moving(1, 20), codec, "yuvj420p" if codec == "mjpeg" else "yuv420p")
        whole = file.read_bytes()
        for share in (0.3, 0.6, 0.9):
            file.write_bytes(whole[: int(len(whole) * share)])
            refused(file, "damaged video|holds no video|codec None|without frames")

    def test_damaged_frames(self, tmp_path: Path) -> None:
        file = video_file(tmp_path / "v.mp4", moving(1, 20), "mpeg4", "yuv420p")
        whole = bytearray(file.read_bytes())
        start = whole.index(b"mdat") + 4
        whole[start + 400 : start + 440] = bytes(40)
        file.write_bytes(whole)
        refused(file, "damaged video")

    def test_no_videos(self, tmp_path: Path) -> None:
        (tmp_path / "empty.mp4").touch()
        refused(tmp_path / "empty.mp4", "the file is empty")
        (tmp_path / "text.mp4").write_text("no video")
        refused(tmp_path / "text.mp4", "not a video of a known kind")
        refused(tmp_path / "gone.mp4", "No such file")
        with av.open(str(tmp_path / "sound.mp4"), "w") as container:
            stream = container.add_stream("aac", rate=48000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 48000
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
        refused(tmp_path / "sound.mp4", "holds no video")

    def test_pyav_is_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = video_file(tmp_path / "v.mkv", moving(1))
        monkeypatch.setitem(sys.modules, "av", None)
        with pytest.raises(ScoringError, match=r"needs PyAV: pip install 'damlpips\[video\]'"):
            list(read_frames(file))


class TestFolders:
    def test_frames_in_the_order_of_their_numbers(self, tmp_path: Path) -> None:
        folder = frame_folder(tmp_path / "f", moving(1, 12), "frame_{}.png", first=3)
        (folder / ".hidden.png").touch()
        (folder / "notes.txt").touch()
        assert [file.name for file in frame_files(folder)] == [f"frame_{k}.png" for k in range(3, 15)]
        for workers in (0, 3):
            found = [f.pixels.permute(1, 2, 0).numpy() for f in iter_frames(folder, workers=workers)]
            assert all(np.array_equal(a, b) for a, b in zip(found, moving(1, 12), strict=True))

    def test_which_folders_are_videos(self, tmp_path: Path) -> None:
        for side in ("r", "d"):
            for clip in ("one", "deep/two.v2", "deep/ten"):
                frame_folder(tmp_path / side / clip, moving(1, 2))
        (tmp_path / "d/deep/ten").rename(tmp_path / "gone")
        video_file(tmp_path / "d/deep/ten.mkv", moving(1, 2))
        pairs = find_pairs(tmp_path / "r", tmp_path / "d", frames=True)
        assert [(p.name, p.video) for p in pairs] == [("deep/ten.mkv", True), ("deep/two.v2", True), ("one", True)]
        (pair,) = find_pairs(tmp_path / "r/one", tmp_path / "d/one", frames=True)
        assert pair == Pair(tmp_path / "r/one", tmp_path / "d/one", "one", video=True)
        against_one = find_pairs(tmp_path / "r/one", tmp_path / "d", frames=True)
        assert [p.reference for p in against_one] == [tmp_path / "r/one"] * 3
        # without `frames` they are images, and those of `ten` have no partners
        with pytest.raises(ScoringError, match=r"no (video|image) of this name"):
            find_pairs(tmp_path / "r", tmp_path / "d")
        frame_folder(tmp_path / "d", moving(1, 1))
        with pytest.raises(ScoringError, match=r"holds images as well as .*: which is the video"):
            find_pairs(tmp_path / "r/one", tmp_path / "d" / "..", frames=True)

    def test_images_and_videos_are_no_pair(self, tmp_path: Path) -> None:
        image = frame_folder(tmp_path / "i", moving(1, 1)) / "0001.png"
        video = video_file(tmp_path / "v/0001.mkv", moving(1))
        with pytest.raises(ScoringError, match=r"is of kind video, .* of kind image"):
            find_pairs(image, video)
        with pytest.raises(ScoringError, match="no video of this name"):
            find_pairs(tmp_path / "i", tmp_path / "v")
        with pytest.raises(ScoringError, match="is an image: with --frames"):
            find_pairs(image, image, frames=True)

    def test_a_manifest_of_folders(self, tmp_path: Path) -> None:
        for side in ("r", "d"):
            frame_folder(tmp_path / side / "one", moving(1, 2))
        rows = tmp_path / "pairs.csv"
        rows.write_text("reference,distorted\none,one\n")
        (pair,) = find_pairs(tmp_path / "r", tmp_path / "d", rows, frames=True)
        assert (pair.name, pair.video) == ("one", True)
        with pytest.raises(ScoringError, match="Is a directory"):
            find_pairs(tmp_path / "r", tmp_path / "d", rows)
        (tmp_path / "d/one/0003.png").symlink_to(tmp_path / "r/one/0001.png")
        with pytest.raises(ScoringError, match=r"line 2: 'one' leads out of .* by a symbolic link"):
            find_pairs(tmp_path / "r", tmp_path / "d", rows, frames=True)


NUMBERS = range(8, 13)


class TestNumbersOfFrames:
    @staticmethod
    def folders(tmp_path: Path, *sides: list[str]) -> list[Path]:
        for k, names in enumerate(sides):
            (tmp_path / str(k)).mkdir()
            for name in names:
                (tmp_path / str(k) / f"{name}.png").touch()
        return [tmp_path / str(k) for k in range(len(sides))]

    PATTERNS = (
        *("{:04d}", "{}", "{:04d}_x4", "{:04d}_1080p", "{:04d}_v2", "v2_{:04d}", "clip7_{:03d}_2x", "f{:d}x4"),
        *("{0:04d}_{0:06d}", "{0:03d}_t0.{0:03d}s", "2024_{:02d}"),
    )

    @pytest.mark.parametrize("pattern", PATTERNS)
    @pytest.mark.parametrize("other", PATTERNS)
    def test_complete_folders_match_and_a_missing_frame_is_noticed(
        self, tmp_path: Path, pattern: str, other: str
    ) -> None:
        whole, same, lacks = (
            [text.format(k) for k in NUMBERS if k != left_out]
            for text, left_out in ((pattern, 12), (other, 12), (other, 10))
        )
        folders = self.folders(tmp_path, whole, same, lacks)
        check_frames(*folders[:2])
        with pytest.raises(ScoringError, match=r"a frame is missing|which digits number the frames"):
            check_frames(folders[0], folders[2])

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (["1_q30", "2_q28"], ["1_q17", "2_q16"]),
            (["s1_001", "s1_002", "s2_001"], ["s1_001_x4", "s1_002_x4", "s2_001_x4"]),
            (["intro", "outro"], ["intro_x4", "outro_x4"]),
            (["0", "1", "2"], ["f101", "f102", "f103"]),
            (["\u00fc1", "\u00fc2"], ["u\u03081", "u\u03082"]),
            (["7"], ["x4"]),
        ],
        ids=["another number varies", "shots", "words", "another start", "letters taken apart", "one frame"],
    )
    def test_names_that_match(self, tmp_path: Path, one: list[str], other: list[str]) -> None:
        check_frames(*self.folders(tmp_path, one, other))

    @pytest.mark.parametrize(
        ("one", "other", "message"),
        [
            (["s1_001", "s1_002", "s2_001"], ["s1_001", "s2_001", "s2_002"], "a frame is missing"),
            (["s1_001", "s1_002", "s2_001"], ["1", "2", "3"], "which digits number the frames.*'1.png' to '3.png'"),
            (["1", "2"], ["a", "b"], "b.png: its name and that of .*a.png differ in more than digits"),
            (["1", "2"], ["1", "01"], "has the same number as"),
            (["intro", "outro"], ["intro_x4", "end_x4"], "differ in more than digits"),
        ],
        ids=["shots", "a flat number", "words", "two of one number", "another word"],
    )
    def test_names_that_do_not(self, tmp_path: Path, one: list[str], other: list[str], message: str) -> None:
        with pytest.raises(ScoringError, match=message):
            check_frames(*self.folders(tmp_path, one, other))


@pytest.fixture(scope="module")
def model() -> DAMLPIPS:
    return DAMLPIPS()


def scored(model: DAMLPIPS, reference: Path, distorted: Path, **options: object):  # type: ignore[no-untyped-def]
    (score,) = score_pairs(model, [Pair(reference, distorted, "x", video=True)], errors="keep", **options)
    return score


class TestScores:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_are_those_of_a_module_of_videos(self, tmp_path: Path, model: DAMLPIPS, workers: int) -> None:
        frames = moving(1)
        files = video_file(tmp_path / "r.mkv", frames), video_file(tmp_path / "d.mkv", noisy(frames))
        x, y = (torch.from_numpy(np.stack(f)).permute(0, 3, 1, 2)[None] for f in (noisy(frames), frames))
        with torch.no_grad():
            expected, layers = DAMLPIPS(video=True)(x, y), DAMLPIPS(video=True).per_layer(x, y)
            each = DAMLPIPS()(x[0], y[0])
        for batch_size in (1, 4, 50):
            score = scored(model, *files, batch_size=batch_size, workers=workers)
            assert score.score == pytest.approx(expected.item(), rel=1e-5)
            assert score.layers == pytest.approx(layers[0].tolist(), rel=1e-5)
            assert list(score.frames.scores) == pytest.approx(each.tolist(), rel=1e-5)
            assert score.size == (40, 48)
        folders = frame_folder(tmp_path / "r", frames), frame_folder(tmp_path / "d", noisy(frames), first=101)
        assert scored(model, *folders, workers=workers).score == pytest.approx(expected.item(), rel=1e-5)
        assert scored(model, folders[0], files[1], workers=workers).score == pytest.approx(expected.item(), rel=1e-5)

    @pytest.mark.parametrize("workers", [0, 1])
    def test_what_does_not_fit(self, tmp_path: Path, model: DAMLPIPS, workers: int) -> None:
        frames = moving(1, 6)
        whole, short = video_file(tmp_path / "r.mkv", frames), video_file(tmp_path / "d.mkv", frames[:5])
        small = video_file(tmp_path / "s.mkv", moving(1, 6, (36, 44)))

        def error(reference: Path, distorted: Path) -> str:
            found = scored(model, reference, distorted, batch_size=2, workers=workers)
            assert found.score is None
            return found.error

        assert error(whole, short) == f"{short}: {short} ends after 5 frames, {whole} goes on"
        assert error(short, whole) == f"{whole}: {short} ends after 5 frames, {whole} goes on"
        assert f"{small}: frames of 44 x 36 pixels, {whole} has 48 x 40: use resize=" in error(whole, small)
        resizing = DAMLPIPS(resize="reference")
        assert 0 < scored(resizing, whole, small, workers=workers).score < 1
        folders = frame_folder(tmp_path / "r", frames), frame_folder(tmp_path / "d", frames[:5])
        assert error(*folders) == f"{folders[1]}: 5 frames, {folders[0]} has 6"
        (folders[0] / "0003.png").unlink()
        assert "0003.png: stands beside" in error(*folders)
        frame_folder(folders[0], moving(1, 1, (36, 44)), first=3)
        frame_folder(folders[1], frames)
        changed = r"r(/0003\.png)?: frame 2 has 44 x 36 pixels, those before it 48 x 40$"
        assert re.search(changed, error(*folders))

    @pytest.mark.parametrize("workers", [0, 2])
    def test_few_frames_are_alive(
        self, tmp_path: Path, model: DAMLPIPS, workers: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        length, batch = 240, 4
        frames = moving(1, 8, (32, 32)) * (length // 8)
        files = [video_file(tmp_path / f"{k}.mp4", frames, "mpeg4", "yuv420p") for k in range(2)]
        alive: set[int] = set()
        seen: list[int] = []
        real = scored_frames.iter_frames

        def watched(path: Path, **options: object):  # type: ignore[no-untyped-def]
            for number, frame in enumerate(real(path, **options)):
                key = hash((path, number))
                alive.add(key)
                weakref.finalize(frame.pixels, alive.discard, key)
                seen.append(len(alive))
                yield frame
                del frame

        monkeypatch.setattr(scored_frames, "iter_frames", watched)
        score = scored(model, *files, batch_size=batch, workers=workers)
        assert (score.score, len(score.frames), len(seen)) == (0, length, 2 * length)
        # two batches on each side, three if a thread reads ahead
        assert max(seen) <= 2 * batch * (2 if workers == 0 else 3)
