"""What goes wrong with long runs, done on purpose and often: processes killed, disks full, folders gone, files damaged.

    python -m benchmarks.reliability PART [--count N] [--seed 0]

Each part prints its figures, a line for each setting, and exits with 1 when something does not hold that must; the page
docs/appendix/reliability.md has them all in a table. Images and videos are small and made up, and scored on nano, with
one thread a process. Linux only; `disk` and `read-only` mount a tmpfs, for which they need root, and `clock` compiles a
few lines of C.
"""

import argparse
import os
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import xml.etree.ElementTree
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import torch
from torchmetrics import MetricCollection

from benchmarks.many import make_images, write_manifest
from damlpips import DAMLPIPS, LPIPS, DAMLPIPSMetric, LPIPSMetric
from damlpips.scoring.formats import journal_of
from damlpips.scoring.images import ScoringError, read_image
from damlpips.scoring.reading import FileWarning
from damlpips.scoring.shards import shard_of, shards_of
from damlpips.scoring.videos import read_frames
from tests.support.commands import Command, csv_rows, free_port, piped, ranks, variables
from tests.support.formats import FILES
from tests.support.pictures import image_file
from tests.support.processes import SERVER
from tests.support.videos import CONTAINERS, moving, noisy, video_file

ROOT = Path(__file__).resolve().parents[1]
MIB = 1 << 20
KINDS = ("csv", "jsonl", "parquet", "json")
WORLDS = (1, 4)
BATCH = 4
# seconds that each batch waits, so that what happens at a random moment mostly happens while pairs are scored
PAUSE = 0.03
# seconds after which ranks give up on a killed one
SILENCE = 4
# what a run says that goes on
BEFORE = re.compile(r"^(\d+) of \d+ pairs were scored before$", re.MULTILINE)


class Broken(Exception):
    """Something does not hold that must."""


def must(holds: object, message: str) -> None:
    if not holds:
        raise Broken(message)


# --- runs of damlpips score -----------------------------------------------------------------------------------------


class Pairs(NamedTuple):
    """Folders r and d to score, how a whole run ends, and what one process writes that nothing disturbs."""

    folder: Path
    total: int
    status: int
    frames: bool
    whole: dict[str, bytes]

    def command(self, out: Path, kind: str, world: int) -> list[object]:
        frames = ["--frames-csv", out / "f.csv"] if self.frames and world == 1 else []
        return ["score", self.folder / "r", self.folder / "d", "--batch-size", BATCH, "-o", out / f"s.{kind}", *frames]


def image_pairs(folder: Path) -> Pairs:
    """58 pairs of three sizes; one file is no image."""
    for k in range(58):
        for side, seed in (("r", k), ("d", k + 100)):
            image_file(folder / side / f"{k}.png", seed, ((32, 36), (40, 32), (36, 36))[k // 5 % 3])
    (folder / "d/31.png").write_bytes(b"no image")
    return _with_whole(Pairs(folder, 58, 3, False, {}))


def video_pairs(folder: Path) -> Pairs:
    """20 pairs of videos of 2 to 9 frames; one file is cut off."""
    for k in range(20):
        frames = moving(k, 2 + k * 5 % 8, (32, 36))
        video_file(folder / f"r/{k}.mkv", frames)
        video_file(folder / f"d/{k}.mkv", noisy(frames, 10 + k))
    cut = folder / "d/11.mkv"
    cut.write_bytes(cut.read_bytes()[:1500])
    return _with_whole(Pairs(folder, 20, 3, True, {}))


SETS = {"images": image_pairs, "videos": video_pairs}


def _with_whole(pairs: Pairs) -> Pairs:
    for kind in KINDS:
        out = pairs.folder / "whole"
        out.mkdir(exist_ok=True)
        _ended(ranks(1, *pairs.command(out, kind, 1), folder=pairs.folder / "said"), (pairs.status,))
        pairs.whole.update((file.name, file.read_bytes()) for file in out.iterdir())
        shutil.rmtree(out)
    return pairs


def _ended(team: list[Command], codes: tuple[int, ...]) -> list[Command]:
    """Wait for processes; they must end with one of the codes and no traceback."""
    for process in team:
        must((code := process.wait()) in codes, f"ended with {code}, expected {codes}: {process.err[-2000:]}")
        must("Traceback" not in process.err, process.err[-2000:])
    return team


class Run:
    """Runs of one command, in a folder that is empty at first."""

    def __init__(self, pairs: Pairs, out: Path, kind: str, world: int) -> None:
        self.pairs, self.out, self.kind, self.world = pairs, out, kind, world
        self.file = out / f"s.{kind}"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)

    def start(self, pause: float = PAUSE, silence: float = 60) -> list[Command]:
        command = self.pairs.command(self.out, self.kind, self.world)
        return ranks(self.world, *command, folder=self.pairs.folder / "said", pause=pause, timeout=silence)

    def seconds(self) -> float:
        """Return how long an undisturbed run takes."""
        began = time.monotonic()
        _ended(self.start(), (self.pairs.status,))
        return time.monotonic() - began

    def growing(self) -> list[Path]:
        """Return the files that hold rows of the pairs."""
        file = self.file if self.kind in ("csv", "jsonl") else journal_of(self.file)
        shards = [shard_of(self.file, start) for start in shards_of(self.file)] if self.out.exists() else []
        return [path for path in (file, *shards) if path.exists()]

    def written(self) -> set[bytes]:
        """Return the names of the pairs whose rows are whole on the disk."""
        rows = [path.read_bytes().rpartition(b"\n")[0].split(b"\n") for path in self.growing()]
        found = (re.search(rb"/d/(\d+)\.", row) for rows_of_file in rows for row in rows_of_file)
        return {name[1] for name in found if name}

    def go_on(self) -> int:
        """Give the command again; what it writes must be whole. Return how many pairs it did not score again."""
        first = _ended(self.start(pause=0), (self.pairs.status,))[0]
        for file in self.out.iterdir():
            must(file.name in self.pairs.whole, f"{file} is left behind")
            must(file.read_bytes() == self.pairs.whole[file.name], f"{file} is not what one undisturbed run writes")
        must(self.file.exists(), f"{self.file} is not there")
        said = BEFORE.search(first.err)
        return int(said[1]) if said else 0

    def must_keep(self, rows: int, files: int, kept: int) -> None:
        """Check that no row is scored again but those of batches that were not whole."""
        must(rows - kept <= (BATCH - 1) * files, f"{self.file}: {rows} rows in {files} files, only {kept} were kept")


def _processes(world: int) -> str:
    return f"{world} process{'es' if world > 1 else ''}"


def _settings(pairs: list[Pairs], out: Path) -> Iterator[tuple[Pairs, str, int, float]]:
    """Yield pairs, their name, how many processes, and how long an undisturbed run takes."""
    for each in pairs:
        for world in WORLDS:
            yield each, f"{each.folder.name}, {_processes(world)}", world, Run(each, out, "csv", world).seconds()


def killed(count: int, chance: random.Random, folder: Path) -> Iterator[str]:
    """SIGKILL at a random moment: the one process; of four all or, every other time, one of them."""
    sets = [make(folder / name) for name, make in SETS.items()]
    for pairs, name, world, seconds in _settings(sets, folder / "out"):
        rows = again = 0
        for k in range(count):
            run = _killed_run(pairs, folder / "out", KINDS[k // 2 % len(KINDS)], world, k % 2 == 1, seconds, chance)
            written, files = len(run.written()), len(run.growing())
            kept = run.go_on()
            run.must_keep(written, files, kept)
            rows, again = rows + written, again + max(0, written - kept)
        must(rows or count < 10, f"{name}: no run had written a row")  # a few may all be killed too early
        yield (
            f"{name}: {count} runs killed, {rows} rows on the disk, 0 lost, {again} scored again with the rest of their"
            f" batch; {count} of {count} files equal, nothing left beside them"
        )


def _killed_run(
    pairs: Pairs, out: Path, kind: str, world: int, one: bool, seconds: float, chance: random.Random
) -> Run:
    while True:
        run = Run(pairs, out, kind, world)
        team = run.start(silence=SILENCE)
        time.sleep(chance.uniform(0, seconds))
        victims = [chance.choice(team)] if one else team
        for victim in victims:
            victim.process.kill()
        # a rank whose first one is gone ends with 4, unless all was done
        _ended([process for process in team if process not in victims], (pairs.status, 4))
        if -signal.SIGKILL in [victim.wait() for victim in victims]:
            return run


@contextmanager
def _mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", options, "tmpfs", folder)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def _mount(*arguments: object) -> None:
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True, check=False)
    must(done.returncode == 0, f"a tmpfs is mounted by root alone: {done.stderr.strip()}")


def full_disk(count: int, chance: random.Random, folder: Path) -> Iterator[str]:
    """The rows go to a tmpfs of some kB, too few; then there is more room."""
    pairs = image_pairs(folder / "images")
    for world in WORLDS:
        rows = again = enough = done = 0
        while done < count:
            kind = KINDS[done % len(KINDS)]
            with _mounted(folder / "disk", f"size={4 * chance.randrange(1, 32)}k") as disk:
                run = Run(pairs, disk / "out", kind, world)
                team = _ended(run.start(pause=0), (2, pairs.status))
                if team[0].process.exitcode == pairs.status:
                    enough += 1
                    continue
                must("No space left on device\n" in team[0].err, team[0].err)
                must(team[0].err.count("\n") == 1, team[0].err)
                for path in run.growing():
                    must(path.read_bytes()[-1:] in (b"\n", b""), f"{path}: a row is not whole")
                written, files = len(run.written()), len(run.growing())
                _mount("-o", "remount,size=16m", disk)
                kept = run.go_on()
                run.must_keep(written, files, kept)
                rows, again, done = rows + written, again + max(0, written - kept), done + 1
        yield (
            f"{_processes(world)}: {count} full disks, each exit code 2 and one line ({enough} more had room enough);"
            f" {rows} rows on them, 0 lost, {again} scored again; {count} of {count} files equal"
        )


def vanishing_folder(count: int, chance: random.Random, folder: Path) -> Iterator[str]:
    """A folder of images or that of the rows is renamed, or leaves an empty one, and comes back after the run's end."""
    pairs = image_pairs(folder / "images")
    for world in WORLDS:
        seconds = Run(pairs, folder / "out", "csv", world).seconds()
        ends: Counter[str] = Counter()
        rows = 0
        for k in range(count):
            run = Run(pairs, folder / "out", KINDS[k // 2 % len(KINDS)], world)
            place = chance.choice([pairs.folder / "r", pairs.folder / "d", run.out])
            team = run.start(silence=SILENCE)
            time.sleep(chance.uniform(0, seconds))
            away = place.rename(folder / "away")
            if k % 2:
                place.mkdir()
            _ended(team, (2, pairs.status))
            ends["ended early" if team[0].process.exitcode == 2 else "were done"] += 1
            if place == run.out and place.exists():
                for path in place.iterdir():  # what a run writes that begins after its folder is gone
                    must(path.name in pairs.whole or ".part" in path.name or ".rows" in path.name, f"{path}?")
            shutil.rmtree(place, ignore_errors=True)
            away.rename(place)
            written, files = len(run.written()), len(run.growing())
            run.must_keep(written, files, run.go_on())
            rows += written
        what = ", ".join(f"{number} {end}" for end, number in sorted(ends.items()))
        yield (
            f"{_processes(world)}: {count} folders gone, {what}; {rows} rows on the disk, 0 lost; {count} of {count}"
            " files equal"
        )


def read_only(count: int, chance: random.Random, folder: Path) -> Iterator[str]:
    """Images, caches, the home and the place of outputs are on a file system that is mounted read-only."""
    with _mounted(folder / "disk", "size=64m") as disk:
        pairs = image_pairs(disk / "images")
        judged, rows, kept = _judged(pairs, disk), disk / "rows.csv", disk / "kept.sqlite"
        rows.write_bytes(pairs.whole["s.csv"])
        agree = "agree", judged, "--metric", "mse", "--samples", 5
        _exits(0, "", piped(*agree, "--cache", kept))
        _mount("-o", "remount,ro", disk)
        there = {name: str(disk) for name in ("HOME", "XDG_CACHE_HOME", "TORCH_HOME", "MPLCONFIGDIR")}
        out = folder / "out"
        out.mkdir()
        images, pair = (pairs.folder / "r", pairs.folder / "d"), (pairs.folder / "r/1.png", pairs.folder / "d/1.png")
        score = "score", *images, "--batch-size", BATCH, "-o"
        works = [(*score, out / f"s.{kind}") for kind in KINDS]
        works += [
            (*agree, "--no-cache"),
            (*agree, "--cache", kept),
            ("map", *pair, "-o", out / "map.png"),
            ("table", rows),
        ]
        works += [("report", rows, "-o", out / "report.html"), ("info",), ("score", *pair)]
        refused = [(*score, disk / f"s.{kind}") for kind in KINDS]
        # the kept cache has all distances of that metric, and none of this one
        refused += [(*agree, "--metric", "damlpips", "--cache", kept), (*agree, "--cache", disk / "new.sqlite"), agree]
        refused += [("map", *pair, "-o", disk / "map.png"), ("report", rows, "-o", disk / "report.html")]
        refused += [("score", *pair, "--metric", "lpips-alex")]  # its weights are not there, and cannot be put there
        for command in works[:count]:
            _exits(3 if command[0] == "score" and pair[0] not in command else 0, "", piped(*command, **there))
        for kind in KINDS[:count]:
            must((out / f"s.{kind}").read_bytes() == pairs.whole[f"s.{kind}"], f"s.{kind} is another file")
        for command in refused[:count]:
            _exits(2, "damlpips: ", piped(*command, **there))
    yield (
        f"{len(works[:count])} commands work with home, caches and images on it, their files equal;"
        f" {len(refused[:count])} that have to write there end with exit code 2 and one error"
    )


def _judged(pairs: Pairs, folder: Path) -> Path:
    """Return a small judged set of some of the pairs."""
    names = [k for k in range(12) if k != 31]
    lines = [f"noisy,images/r/{k}.png,images/d/{k}.png,{k % 5},{k}" for k in names]
    file = folder / "mos.csv"
    file.write_text("\n".join(["set,ref,dist,score,group", *lines]) + "\n")
    return file


def _exits(code: int, error: str, done: subprocess.CompletedProcess[str]) -> None:
    said = f"{' '.join(map(str, done.args[3:]))} ended with {done.returncode}, expected {code}: {done.stderr[-2000:]}"
    must(done.returncode == code and "Traceback" not in done.stderr, said)
    # Matplotlib may have something to say of its own cache before
    must(not error or sum(line.startswith(error) for line in done.stderr.splitlines()) == 1, said)


# loaded before the C library: the wall clock, and nothing else, is off by the seconds in a file
CLOCK = r"""
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long offset(void) {
    static volatile long *seconds;
    if (!seconds) {
        int file = open(getenv("CLOCK_OFFSET"), O_RDONLY);
        seconds = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
        close(file);
    }
    return *seconds;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += offset();
    return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (now) *now = precise.tv_sec;
    return precise.tv_sec;
}
"""


def jumping_clock(count: int, chance: random.Random, folder: Path) -> Iterator[str]:
    """The clock jumps by up to ten years, twenty times a second; every other two runs are killed and go on."""
    must(shutil.which("cc"), "no C compiler")
    source, library, offset = folder / "clock.c", folder / "clock.so", folder / "offset"
    source.write_text(CLOCK)
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, source], check=True)
    offset.write_bytes(bytes(8))
    faked = {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(offset)}
    pairs = image_pairs(folder / "images")
    jumps, stopped, ended = 0, 0, threading.Event()

    def jump() -> None:
        nonlocal jumps
        with offset.open("r+b", buffering=0) as file:
            while not ended.wait(0.05):
                os.pwrite(file.fileno(), struct.pack("l", chance.randrange(-315_360_000, 315_360_000)), 0)
                jumps += 1

    thread = threading.Thread(target=jump, daemon=True)
    thread.start()
    try:
        must(any(abs(_clock(faked) - time.time()) > 86_400 for _ in range(5)), "the clock does not jump")
        for k in range(count):
            run = Run(pairs, folder / "out", KINDS[k // 2 % len(KINDS)], WORLDS[k % 2])
            if k // 2 % 2:
                stopped, team = stopped + 1, _started(run, faked)
                until = time.monotonic() + 120
                while len(run.written()) < 8 and time.monotonic() < until:
                    time.sleep(0.01)
                for process in team:
                    process.kill()
                for process in team:
                    process.communicate()
            for process in _started(run, faked):
                _, err = process.communicate(timeout=300)
                must(process.returncode == pairs.status, f"ended with {process.returncode}: {err[-2000:]}")
            must(run.file.read_bytes() == pairs.whole[run.file.name], f"{run.file} is not that of a clock that goes")
            must([path.name for path in run.out.iterdir()] == [run.file.name], f"{run.out}: files are left behind")
        judged = _judged(pairs, folder)
        agree = "agree", judged, "--metric", "mse", "--samples", 5
        for k in range(2):
            image = pairs.folder / "d" / f"{k}.png"
            kept = piped(*agree, "--cache", folder / "kept", **faked)
            times = image.stat()
            image_file(image, 1000 + k, (32, 36))
            os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
            kept = piped(*agree, "--cache", folder / "kept", **faked)
            anew = piped(*agree, "--no-cache")
            must(kept.returncode == anew.returncode == 0, kept.stderr + anew.stderr)
            must(kept.stdout == anew.stdout, "the cache of distances gives others than a run without")
    finally:
        ended.set()
        thread.join()
    yield (
        f"{count} runs of one process and four, {stopped} of them killed and gone on, {jumps} jumps: {count} of {count}"
        " files equal; a cache of distances, after images have changed: as without"
    )


def _clock(environment: dict[str, str]) -> float:
    """Return what time a new process believes it is."""
    command = [sys.executable, "-S", "-c", "import time; print(time.time())"]
    done = subprocess.run(command, env=variables(**environment), capture_output=True, text=True, check=True)
    return float(done.stdout)


def _started(run: Run, environment: dict[str, str]) -> list[subprocess.Popen[str]]:
    """Start the processes of a run as a shell would: what is preloaded must be there from their start."""
    command = [sys.executable, "-m", "damlpips", *map(str, run.pairs.command(run.out, run.kind, run.world))]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(run.world)}
    return [
        subprocess.Popen(
            command,
            env=variables(**environment, **place, RANK=str(rank)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(run.world)
    ]


# --- amounts --------------------------------------------------------------------------------------------------------


def _resident(process: int | str = "self") -> int:
    """Return the bytes of memory that a process has now."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) << 10  # type: ignore[index]


def many_pairs(count: int, chance: random.Random, folder: Path) -> Iterator[str]:
    """Resident memory of one run after a tenth, half and all of its pairs of 24 x 24 pixels."""
    make_images(folder, 24)
    manifest = write_manifest(folder, count)
    rows = folder / "rows.csv"
    command = ["score", "reference", "distorted", "--pairs", manifest, "--csv", rows, "--batch-size", 64, "--quiet"]
    command = [sys.executable, "-m", "damlpips", *map(str, command)]
    began, found, number = time.monotonic(), {}, -1  # the header is no row
    with subprocess.Popen(command, cwd=folder, env=variables()) as process:
        opened = None
        while process.poll() is None:
            time.sleep(0.02)
            if opened is None and rows.exists():
                opened = rows.open("rb")
            if opened is not None:
                number += opened.read().count(b"\n")
                for share in (count // 10, count // 2, count - count // 50):
                    if number >= share and share not in found:
                        found[share] = _resident(process.pid)
    must(process.returncode == 0, f"ended with {process.returncode}")
    scored = [row["score"] for row in csv_rows(rows)]
    must(len(scored) == count and all(scored), f"expected {count} scores, got {len(scored)}")
    must(len(found) == 3, f"memory was seen only after {sorted(found)} pairs")
    first, *_, last = (found[share] for share in sorted(found))
    must(last - first < 16 * MIB, f"memory grows from {first >> 20} to {last >> 20} MiB")
    after = ", ".join(f"{found[share] / MIB:.0f} MiB after {share:,}" for share in sorted(found))
    yield f"{count:,} pairs in {time.monotonic() - began:.0f} s: {after}; {len(scored):,} rows"


def many_updates(count: int, chance: random.Random, folder: Path) -> Iterator[str]:
    """A day of `update`, one a second, of both metrics in a collection; every hour the mean must be the exact one.

    An hour of them again with alignment, which takes four times as long.
    """
    torch.set_num_threads(1)
    hour = max(1, count // 24)
    yield _updated(count, hour, chance, align=False)
    yield _updated(hour, max(1, hour // 4), chance)


def _updated(count: int, often: int, chance: random.Random, **options: bool) -> str:
    generator = torch.Generator().manual_seed(chance.randrange(1 << 30))
    x = torch.rand(24, 1, 3, 32, 32, generator=generator)
    y = (x + 0.3 * torch.rand(x.shape, generator=generator)).clamp(0, 1)
    uniform = {"backbone": "nano", "heads": "uniform"}
    modules = {"LPIPS": LPIPS(**uniform), "DAMLPIPS": DAMLPIPS(**options)}
    metrics = MetricCollection({"LPIPS": LPIPSMetric(**uniform), "DAMLPIPS": DAMLPIPSMetric(**options)})
    with torch.no_grad():
        scores = {
            name: [Fraction(float(module(a, b))) for a, b in zip(x, y, strict=True)] for name, module in modules.items()
        }
    sums, resident, began = dict.fromkeys(scores, Fraction(0)), [], time.monotonic()
    for k in range(1, count + 1):
        batch = chance.randrange(len(x))
        metrics.update(x[batch], y[batch])
        for name, each in scores.items():
            sums[name] += each[batch]
        if k % often == 0:
            resident.append(_resident())
            for name, value in metrics.compute().items():
                exact = torch.tensor(float(sums[name] / k), dtype=torch.float64).float()
                must(value == exact, f"{name} after {k} updates: {value.item()!r}, expected {exact.item()!r}")
    kept = [value for metric in metrics.values() for value in metric.metric_state.values()]
    size = sum(value.nbytes for value in kept if isinstance(value, torch.Tensor))
    must(size == 240 and not any(value for value in kept if isinstance(value, list)), f"{size} bytes: {kept}")
    growth = resident[-1] - resident[0]
    must(growth < 8 * MIB, f"memory grows by {growth / MIB:.1f} MiB")
    how = "".join(f", {name}={value}" for name, value in options.items())
    return (
        f"{count:,} updates of both metrics{how} in {time.monotonic() - began:.0f} s: {len(resident)} times the exact"
        f" mean; {size // 2} bytes a state; {resident[0] / MIB:.1f} MiB after {often:,} and {resident[-1] / MIB:.1f}"
        " after all"
    )


# --- damaged files --------------------------------------------------------------------------------------------------


def cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))]


def flipped(content: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(chance.choice((1, 2, 8, 64))):
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def zeroed(content: bytes, chance: random.Random) -> bytes:
    at, length = chance.randrange(len(content)), chance.choice((1, 4, 16, 256, 4096))
    return content[:at] + bytes(min(length, len(content) - at)) + content[at + length :]


def with_another_head(content: bytes, chance: random.Random) -> bytes:
    at = chance.choice((4, 8, 12, 16, 32, 64))
    return chance.choice(list(FILES.values()))()[:at] + content[at:]


DAMAGES = (cut, flipped, zeroed, with_another_head)


def read(file: str, video: bool) -> str:
    """Return the error of a file, empty if it can be read; anything but the documented error is raised."""
    warnings.simplefilter("ignore", FileWarning)
    try:
        if not video:
            must(read_image(Path(file), deep=True).shape[0] == 3, f"{file}: no image of three channels")
        elif not sum(1 for _ in read_frames(Path(file))):
            raise Broken(f"{file}: a video of no frames, and no error")
    except ScoringError as error:
        return str(error)
    return ""


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def damaged_files(count: int, chance: random.Random, folder: Path) -> Iterator[str]:
    """Files of every format, damaged in four ways, are read in a process of their own, within a minute each."""
    wholes = {name: (make(), False) for name, make in FILES.items()}
    for name, how in CONTAINERS.items():
        wholes[name] = video_file(folder / name, moving(1, 3, (32, 32)), *how).read_bytes(), True
    refused: Counter[bool] = Counter()
    total: Counter[bool] = Counter()
    slowest = 0.0
    file = folder / "damaged.bin"
    with ProcessPoolExecutor(1, mp_context=SERVER) as reader:
        reader.submit(_peak).result()  # which starts the process
        for k in range(count):
            name = list(wholes)[k % len(wholes)]
            whole, video = wholes[name]
            damage = DAMAGES[k // len(wholes) % len(DAMAGES)]
            while (content := damage(whole, chance)) == whole:
                pass
            file.write_bytes(content)
            began = time.monotonic()
            try:
                error = reader.submit(read, str(file), video).result(timeout=60)
            except Exception as what:  # a crash of the process, a minute without an answer, another exception
                shutil.copy(file, kept := Path(tempfile.gettempdir()) / f"damaged-{k}.bin")
                raise Broken(f"{name}, {damage.__name__}: {what!r}; the file is {kept}") from what
            slowest = max(slowest, time.monotonic() - began)
            must(not error or error.startswith(f"{file}: "), f"{name}: an error without the file's name: {error}")
            must("\n" not in error, f"{name}: an error of several lines: {error}")
            total[video], refused[video] = total[video] + 1, refused[video] + bool(error)
        peak = reader.submit(_peak).result()
    must(all(refused.values()), "no damage was an error")
    what = ", ".join(
        f"{total[video]:,} {kind}"
        f" ({refused[video]:,} are errors that name the file, {total[video] - refused[video]:,} are read)"
        for video, kind in ((False, "images"), (True, "videos"))
    )
    yield (
        f"{count:,} damaged files of {len(wholes)} formats: {what}; no crash, no hang, no other exception; the slowest"
        f" took {slowest:.2f} s, memory {peak / MIB:.0f} MiB at most"
    )


def upstream_suites(count: int, chance: random.Random, folder: Path) -> Iterator[str]:
    """The tests that torchmetrics, pyiqa and piq have for their own metrics."""
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "tests/upstream", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    must(report.exists(), done.stdout[-2000:] + done.stderr[-2000:])
    found: dict[str, Counter[str]] = {}
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        suite = re.search(r"test_(\w+)", case.attrib["classname"])
        kinds = [child.tag for child in case if child.tag in ("skipped", "failure", "error")]
        found.setdefault(suite[1] if suite else "other", Counter())[kinds[0] if kinds else "passed"] += 1
    what = "; ".join(
        f"{name}: " + ", ".join(f"{number} {kind}" for kind, number in sorted(counts.items()))
        for name, counts in sorted(found.items())
    )
    must(done.returncode == 0 and len(found) >= 3, f"{what}\n{done.stdout[-3000:]}")
    yield what


# --- the command ----------------------------------------------------------------------------------------------------


class Part(NamedTuple):
    """Something that is done `count` times, or to so many things."""

    run: Callable[[int, random.Random, Path], Iterator[str]]
    count: int
    counted: str


PARTS = {
    "kill": Part(killed, 25, "runs of each of images and videos, in one process and four"),
    "disk": Part(full_disk, 20, "full disks, for one process and for four"),
    "folder": Part(vanishing_folder, 20, "folders, for one process and for four"),
    "read-only": Part(read_only, 99, "commands that work, and that are refused, at most"),
    "clock": Part(jumping_clock, 12, "runs"),
    "pairs": Part(many_pairs, 100_000, "pairs"),
    "updates": Part(many_updates, 86_400, "updates"),
    "damaged": Part(damaged_files, 5000, "files"),
    "upstream": Part(upstream_suites, 1, "time, whatever is given"),
}


def main(arguments: list[str] | None = None) -> None:
    counts = "; ".join(f"{name}: {part.count} {part.counted}" for name, part in PARTS.items())
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--count", type=int, help=f"how often, or how many ({counts})")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    part = PARTS[options.part]
    with tempfile.TemporaryDirectory(prefix="reliability-") as folder:
        try:
            for line in part.run(options.count or part.count, random.Random(options.seed), Path(folder)):
                print(f"{options.part}: {line}", flush=True)
        except Broken as error:
            sys.exit(f"{options.part}: {error}")


if __name__ == "__main__":
    main()
