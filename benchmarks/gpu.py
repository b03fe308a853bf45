"""Everything that takes a GPU, in one command of seven minutes at most: tests, kernels, speed, roofline, profiles.

    python -m benchmarks.gpu OUT [--parts NAME ...] [--wheels FOLDER] [--device cpu]
    python -m benchmarks.gpu OUT --tables

Needs torch, torchvision, torchmetrics, Triton, pytest and hypothesis, no installation and no network: PYTHONPATH=src
finds the package, and wheels in FOLDER, such as that of `lpips`, are unpacked. Each part runs in a process of its own
with its own time limit and writes OUT/PART.txt, line by line; the bench also OUT/bench.jsonl, from which `--tables`
makes Markdown. A part that fails or takes too long takes nothing from the others. `--device cpu` rehearses: it runs the
same lines with tiny images, and Triton's kernels interpreted.
"""

import argparse
import gc
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
# Seconds that each part may take, seven minutes together.
LIMITS = {
    "device": 30,
    "tests": 130,
    "compile": 90,
    "bench": 100,
    "roofline": 20,
    "kernels": 20,
    "scores": 15,
    "profiles": 15,
}
BACKBONES = ("alex", "vgg", "nano", "squeeze")
# What lpips and torchmetrics are given by autocast; "tf32" is float32 with TF32 in convolutions, PyTorch's default.
PRECISIONS = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "tf32": torch.float32,
    "float32": torch.float32,
}
# Pairs and their side.
SIZES = {"cuda": ((64, 256), (8, 512)), "cpu": ((1, 64),)}
# What is measured, the most important first: with which of the sizes, in what, on which networks.
CELLS = (
    (0, "bfloat16", BACKBONES),
    (0, "tf32", BACKBONES),
    (1, "bfloat16", BACKBONES),
    (0, "float16", ("alex", "vgg", "nano")),
    (1, "tf32", ("alex", "vgg", "nano")),
    (0, "float32", ("alex", "vgg", "nano")),
)
# Seconds of timed calls of each contender in a cell, and calls that are timed together, one after another.
BUDGET = {"cuda": 0.06, "cpu": 0.0}
TOGETHER = {"cuda": 4, "cpu": 1}
# A call of so many seconds is timed alone.
LONG = 0.03
TESTS = (
    *("tests/ops/test_triton_kernels.py", "tests/ops/test_triton_images.py", "tests/ops/test_triton_motion.py"),
    "tests/nets/test_half.py",
    *("tests/models/test_cuda.py", "tests/models/test_deterministic.py", "tests/models/test_references.py"),
    *("tests/models/test_pairwise.py", "tests/models/test_tiling.py", "tests/scoring/test_scorer.py"),
    *("tests/distributed/test_ranks.py", "tests/benchmarks/test_bench.py", "tests/evaluation/test_named.py"),
    *("tests/adapters/torchmetrics/test_metrics.py", "tests/calibration/test_fit.py"),
    *("tests/upstream/test_torchmetrics.py", "tests/upstream/test_piq.py"),
)

say = partial(print, flush=True)


# --- the parts ------------------------------------------------------------------------------------------------------


def device_part(device: torch.device, _out: Path) -> None:
    """Say what the machine is."""
    say("python", platform.python_version(), "cores", os.cpu_count())
    for name in ("torch", "torchvision", "torchmetrics", "triton", "lpips", "timm"):
        try:
            found = __import__(name)
        except ImportError:
            say(name, "is not installed")
        else:
            say(name, getattr(found, "__version__", "of unknown version"))
    if device.type == "cuda":
        say("CUDA", torch.version.cuda, "cuDNN", torch.backends.cudnn.version())
        say(torch.cuda.get_device_properties(device))
        subprocess.run(["nvidia-smi"], check=False, timeout=10)


def tests_part(device: torch.device, _out: Path) -> None:
    """Run the tests that need a GPU; rehearsed, collect them and run those of the kernels in Triton's interpreter."""
    quietly = ("-q", "-p", "no:cacheprovider", "-p", "no:benchmark", "-o", "addopts=--import-mode=importlib")
    command = [sys.executable, "-m", "pytest", *quietly]
    if device.type == "cuda":
        # compiling a kernel keeps a core busy
        rest = ["-m", "cuda", "-n", str(min(14, os.cpu_count() or 1)), "-p", "benchmarks.gpu", "--durations=15", *TESTS]
    else:
        rest = ["-n0", "-k", "interpreter or needs_a_gpu", *TESTS]
    say("rc", subprocess.run([*command, *rest], cwd=ROOT, check=False).returncode)


def pytest_runtest_logreport(report: Any) -> None:
    """Print a failure when it happens: of a run that is cut off pytest tells nothing."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        say(f"\nFAILED {report.nodeid}\n{report.longreprtext}\n")


@torch.no_grad()
def scores_part(device: torch.device, _out: Path) -> None:
    """Compare scores of the demo's pictures, with AlexNet's own weights where there are, with those of the CPU."""
    from damlpips import DAMLPIPS, LPIPS
    from damlpips.scoring.images import read_image

    folder = ROOT / "docs" / "demo"
    pairs = [
        (reference, distorted)
        for reference in sorted(folder.glob("*.png"))
        for distorted in sorted((folder / reference.stem).iterdir())
    ]
    x, y = (torch.stack([read_image(file) for file in files]) for files in zip(*pairs, strict=True))
    kinds: dict[str, Callable[..., nn.Module]] = {
        "DAMLPIPS nano": DAMLPIPS,
        "DAMLPIPS 2 nano": partial(DAMLPIPS, version=2),
        "LPIPS nano, uniform heads": partial(LPIPS, "nano", heads="uniform"),
    }
    weights = Path(os.environ.get("DAMLPIPS_WEIGHTS_DIR", ".")) / "alexnet_features.safetensors"
    if weights.exists():
        kinds["LPIPS alex"] = partial(LPIPS, "alex", weights=weights)
        kinds["DAMLPIPS alex"] = partial(DAMLPIPS, "alex", weights=weights)
    else:
        say("without alex: no weights at", weights)
    say("largest and median relative difference to float32 on the CPU, of", len(x), "pairs")
    for name, build in kinds.items():
        expected = build()(x, y).double()
        for precision, dtype in PRECISIONS.items():
            half = None if dtype == torch.float32 else dtype
            with tf32(precision == "tf32"):
                found = build(dtype=half).to(device)(x.to(device), y.to(device)).cpu().double()
            apart = (found - expected).abs() / expected
            say(f"{name:28s} {precision:9s} {apart.max().item():.1e} {apart.median().item():.1e}")


def compile_part(device: torch.device, _out: Path) -> None:
    """Compile all kernels that the bench will take, in several processes: one would spend its time on it."""
    from benchmarks.bench.networks import TORCHVISION, random_weights

    for backbone in TORCHVISION:
        random_weights(backbone, Path(tempfile.gettempdir()))  # which the processes share
    code = "from benchmarks.gpu import warm_up; import sys; warm_up(*sys.argv[1:])"
    running = [
        subprocess.Popen([sys.executable, "-c", code, backbone, precision, device.type], cwd=ROOT)
        for backbone, precision in product(BACKBONES, ("tf32", "bfloat16"))
    ]
    say("rc", *(process.wait() for process in running))


def warm_up(backbone: str, precision: str, kind: str) -> None:
    """Run every metric once."""
    device = torch.device(kind)
    for (pairs, size), task in product(SIZES[kind], ("forward", "training")):
        for name, call in models(backbone, precision, device):
            if "recorded" not in name:
                with guarded(f"{backbone} {precision} {name} {task}"):
                    step(task, call, device, pairs, size)()


def kernels_part(device: torch.device, _out: Path) -> None:
    """Time whole scores with kernels and without them."""
    from damlpips.ops.fused import SWITCH

    pairs, size = SIZES[device.type][0]
    say(f"{pairs} pairs of {size} x {size}: ms with kernels, without, and how many times as long")
    for precision, backbone in product(("bfloat16", "tf32"), BACKBONES):
        for model, task in product(models(backbone, precision, device), ("forward", "training")):
            name, call = model
            if "recorded" in name:
                continue
            calls = {}
            for switch in ("on", "off"):
                calls[switch] = with_switch(SWITCH, switch, step(task, call, device, pairs, size))
            with guarded(name), tf32(precision == "tf32"):
                seconds = timed(calls, device)
                on, off = (1e3 * statistics.median(seconds[switch]) for switch in ("on", "off"))
                say(f"{backbone:8s} {precision:9s} {name:10s} {task:9s} {on:9.3f} {off:9.3f} {off / on:6.2f}")


def bench_part(device: torch.device, out: Path) -> None:
    """Time every metric on every network, in every precision, beside other packages."""
    with (out / "bench.jsonl").open("w", encoding="utf-8") as file:
        for row in bench_rows(device):
            file.write(json.dumps(row) + "\n")
            file.flush()
            say(*(f"{value:.3f}" if isinstance(value, float) else value for value in row.values()))


def bench_rows(device: torch.device) -> Iterator[dict[str, Any]]:
    """Yield a row for each contender in each cell; what matters most first: a run that is cut off has that."""
    sizes = SIZES[device.type]
    for place, precision, backbones in CELLS:
        if place >= len(sizes):
            continue
        (pairs, size), first = sizes[place], place == 0
        for backbone in backbones:
            yield from rows_of(backbone, precision, pairs, size, first, device)


def rows_of(
    backbone: str, precision: str, pairs: int, size: int, first: bool, device: torch.device
) -> Iterator[dict[str, Any]]:
    """Yield a row for each contender on a network; torchmetrics' with the `first` size alone, where it is slowest."""
    from benchmarks.bench.contenders import Place
    from benchmarks.bench.peers import peers

    with guarded(f"{backbone} {precision}"):
        net = "alex" if backbone == "nano" else backbone
        place = Place(device, PRECISIONS[precision])
        calls = {c.name: c.call for c in peers(net, place, ["lpips", "torchmetrics"])[0]}
        calls |= dict(models(backbone, precision, device))
        if precision in ("float16", "float32"):  # as in bfloat16, and as with TF32
            calls = {name: call for name, call in calls.items() if not name.startswith("DAMLPIPS 1")}
        for task in ("forward", "training"):
            if backbone == "nano" or task == "training" or not first:
                calls.pop("torchmetrics", None)
            with guarded(f"{backbone} {precision} {task}"), tf32(precision == "tf32"):
                for row in cell(calls, task, device, pairs, size):
                    yield {"backbone": backbone, "precision": precision, **row}


def roofline_part(device: torch.device, _out: Path) -> None:
    """Print the share of the roofline in each precision."""
    from benchmarks.bench import roofline

    if device.type == "cpu":
        small = {"cpu": 128}
        tables = {"SIDE": small, "COPIED": {"cpu": 1 << 20}, "WIDE_IMAGES": {"cpu": 1}}
        for name, table in tables.items():
            setattr(roofline, name, table)
    pairs, size = SIZES[device.type][0]
    for precision, backbone in product(("bfloat16", "float32"), BACKBONES):
        with guarded(f"{backbone} {precision}"):
            roofline.main(
                [
                    *("--device", device.type, "--dtype", precision, "--backbones", backbone),
                    *("--size", str(size), "--batch", str(pairs), "--budget", str(4 * BUDGET[device.type])),
                ]
            )


def profiles_part(device: torch.device, _out: Path) -> None:
    """Print where the time of the two slowest goes: LPIPS on vgg, and a training step of DAMLPIPS."""
    pairs, size = SIZES[device.type][0]
    for backbone, kind, task in (
        ("vgg", "LPIPS", "forward"),
        ("nano", "DAMLPIPS", "forward"),
        ("nano", "DAMLPIPS", "training"),
    ):
        call = dict(models(backbone, "bfloat16", device))[kind]
        profile(f"{kind} {backbone}, {task}", step(task, call, device, pairs, size), device)


PARTS = {
    "device": device_part,
    "tests": tests_part,
    "compile": compile_part,
    "kernels": kernels_part,
    "bench": bench_part,
    "roofline": roofline_part,
    "scores": scores_part,
    "profiles": profiles_part,
}


# --- what they measure ----------------------------------------------------------------------------------------------


def models(backbone: str, precision: str, device: torch.device) -> Iterator[tuple[str, Callable[..., Tensor]]]:
    """Yield this package's metrics by name, with and without recorded graphs."""
    from benchmarks.bench.contenders import Contender, Place
    from benchmarks.bench.lineup import in_dtype, ours
    from benchmarks.bench.networks import TORCHVISION, random_weights
    from damlpips import DAMLPIPS

    folder, place = Path(tempfile.gettempdir()), Place(device, PRECISIONS[precision])
    weights = random_weights(backbone, folder) if backbone in TORCHVISION else None

    def all_of(recorded: bool) -> Iterator[Contender]:
        yield from ours(backbone, folder, place, cuda_graphs=recorded)
        options = {"backbone": backbone, "weights": weights, "version": 1, "cuda_graphs": recorded}
        yield Contender("DAMLPIPS 1", in_dtype(DAMLPIPS, place.dtype, **options).to(device))

    for plain, recorded in zip(all_of(False), all_of(True), strict=True):
        if not plain.above:  # what takes part in cells of any size
            yield plain.name, plain.call
            yield f"{plain.name}, recorded", recorded.call


@cache
def images(pairs: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return images, made once: on a CPU they take longer than what is measured with them."""
    from benchmarks.bench import harness

    return harness.images(pairs, size, device)


def step(task: str, call: Callable[..., Tensor], device: torch.device, pairs: int, size: int) -> Callable[[], None]:
    """Return a function that scores some pairs, or takes the gradient of their scores."""
    from benchmarks.bench import harness

    x, y = images(pairs, size, device)
    return lambda: harness.run(task, call, x, y)


def cell(
    calls: Mapping[str, Callable[..., Tensor]], task: str, device: torch.device, pairs: int, size: int
) -> Iterator[dict[str, Any]]:
    """Yield what each contender takes: milliseconds of the device and of the host, and the peak in MiB."""
    from benchmarks.bench import harness

    cuda = device.type == "cuda"
    for name, call in calls.items():
        with guarded(name):
            run = step(task, call, device, pairs, size)
            before = torch.cuda.memory_reserved() if cuda else 0
            seconds = timed({name: run}, device)[name]
            begin = time.perf_counter()
            run()
            host = time.perf_counter() - begin
            peak = harness.peak_bytes(run, device)
            if cuda and "recorded" in name:  # which allocates nothing more in a call
                torch.cuda.empty_cache()
                peak = torch.cuda.memory_reserved() - before
            spread = harness.Spread.of(1e3 * s for s in seconds)
            yield {
                "task": task,
                "pairs": pairs,
                "size": size,
                "name": name,
                "ms": spread.median,
                "low": spread.low,
                "high": spread.high,
                "host": 1e3 * host,
                "MiB": peak / 2**20,
            }
        if isinstance(call, nn.Module):
            call._graphed = None  # a recording keeps its feature maps
            gc.collect()
        if cuda:
            torch.cuda.empty_cache()


def timed(calls: Mapping[str, Callable[[], None]], device: torch.device) -> dict[str, list[float]]:
    """Return the seconds of a call, from interleaved runs of several one after another, after warming up.

    So the host prepares a call while the device works on the one before, as in a loop over batches.
    """
    from benchmarks.bench import harness

    clock, times = harness.clock_of(device), {}
    for name, call in calls.items():
        for _ in range(harness.WARM_UPS[device.type]):
            call()
        times[name] = 1 if clock(call) > LONG else TOGETHER[device.type]
    together = {name: partial(repeated, call, times[name]) for name, call in calls.items()}
    found = harness.interleaved(together, clock, budget=BUDGET[device.type] * len(calls), most=12)
    return {name: [s / times[name] for s in seconds] for name, seconds in found.items()}


def repeated(call: Callable[[], None], times: int) -> None:
    for _ in range(times):
        call()


def profile(name: str, run: Callable[[], None], device: torch.device) -> None:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    cuda = device.type == "cuda"
    for _ in range(3):
        run()
    with profiler(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as found:
        run()
        if cuda:
            torch.cuda.synchronize()
    say(f"\n{name}")
    key = "self_cuda_time_total" if cuda else "self_cpu_time_total"
    say(found.key_averages().table(sort_by=key, row_limit=25, max_name_column_width=80))


def with_switch(name: str, value: str, call: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        with mock.patch.dict(os.environ, {name: value}):
            call()

    return run


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let convolutions in float32 round to TF32, or not."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """Print an error with its traceback, and go on."""
    try:
        yield
    except Exception:
        say(f"{what} FAILED")
        traceback.print_exc()
        sys.stderr.flush()


# --- tables ---------------------------------------------------------------------------------------------------------


def tables(file: Path) -> Iterator[str]:
    """Yield lines of Markdown: times and memory of each contender in times of the fastest lpips of any precision."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for backbone in BACKBONES:
        mine = [row for row in rows if row["backbone"] == backbone]
        if not mine:
            continue
        yield f"\n### {backbone}\n"
        for key in dict.fromkeys((row["pairs"], row["size"], row["task"]) for row in mine):
            here = [row for row in mine if (row["pairs"], row["size"], row["task"]) == key]
            best = min((row for row in here if row["name"] == "lpips"), key=lambda row: row["ms"])
            names = list(dict.fromkeys(row["name"] for row in here))
            yield (
                f"{key[0]} pairs of {key[1]} x {key[1]}, {key[2]}; lpips at its best: {best['ms']:.2f} ms in"
                f" {best['precision']}, {best['MiB']:.0f} MiB\n"
            )
            yield f"| precision | {' | '.join(names)} |"
            yield f"|---{'|---' * len(names)}|"
            for precision in PRECISIONS:
                found = {row["name"]: row for row in here if row["precision"] == precision}
                cells = [compared(found[name], best) if name in found else "-" for name in names]
                yield f"| {precision} | {' | '.join(cells)} |"
            yield ""


def compared(row: Mapping[str, Any], best: Mapping[str, Any]) -> str:
    """Return milliseconds, how many times as fast as `best` that is, and peak memory in units of that of `best`."""
    return f"{row['ms']:.2f} ms ({best['ms'] / row['ms']:.1f} x), {row['MiB'] / best['MiB']:.2f}"


# --- the command ----------------------------------------------------------------------------------------------------


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="where results go")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--wheels", type=Path, help="a folder of wheels to unpack")
    parser.add_argument("--device", choices=SIZES, default="cuda")
    parser.add_argument("--tables", action="store_true", help="measure nothing, print tables of what was")
    parser.add_argument("--inside", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if options.inside:
        PARTS[options.inside](torch.device(options.device), options.out)
    elif options.tables:
        print("\n".join(tables(options.out / "bench.jsonl")))
    else:
        sys.exit(run_all(options))


def run_all(options: argparse.Namespace) -> int:
    """Run the parts, and return how many failed."""
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("--device: no CUDA device is available here; --device cpu rehearses")
    options.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    with tempfile.TemporaryDirectory() as site:
        for wheel in sorted(options.wheels.glob("*.whl")) if options.wheels else []:
            zipfile.ZipFile(wheel).extractall(site)
        paths = [str(ROOT / "src"), str(ROOT), site, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
        for part in options.parts:
            log, begin = options.out / f"{part}.txt", time.perf_counter()
            command = [sys.executable, "-m", "benchmarks.gpu", str(options.out), "--inside", part]
            with log.open("w", encoding="utf-8") as file:
                limit = LIMITS[part] if options.device == "cuda" else None
                running = subprocess.Popen(
                    [*command, "--device", options.device],
                    cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
                try:
                    outcome = f"rc {running.wait(limit)}"
                except subprocess.TimeoutExpired:
                    outcome = f"stopped after {limit} s"
                finally:  # with all that it has started, which would disturb what is measured next
                    with suppress(ProcessLookupError):
                        os.killpg(running.pid, signal.SIGKILL)
                    running.wait()
            text = log.read_text(encoding="utf-8")
            bad = outcome != "rc 0" or "FAILED" in text or "Traceback" in text
            failed += bad
            say(f"{part}: {outcome}, {time.perf_counter() - begin:.0f} s{', with failures' if bad else ''}: {log}")
    return failed


if __name__ == "__main__":
    main()
