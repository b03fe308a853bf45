"""How time and memory are measured: calls interleaved in one process, medians with their quartiles, allocator peaks."""

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from .contenders import FORWARD, Call

LEAST_ROUNDS, MOST_ROUNDS = 3, 30
# The first calls choose kernels, try them out and compile them, in memory that later calls do not need.
WARM_UPS = {"cpu": 1, "cuda": 3}

# Runs a call and returns the seconds that it took.
Clock = Callable[[Callable[[], object]], float]


class Spread(NamedTuple):
    """The quartiles of repeated measurements."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        values = list(values)
        if not values:
            raise ValueError("a spread needs at least one measurement")
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(low, median, high)


def ratio(seconds: Iterable[float], baseline: Iterable[float]) -> Spread:
    """Return how many times longer than the baseline's the calls took, round by round.

    What slows the machine down for a while slows both calls of a round.
    """
    return Spread.of(mine / theirs for mine, theirs in zip(seconds, baseline, strict=True))


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    clock: Clock,
    *,
    budget: float,
    least: int = LEAST_ROUNDS,
    most: int = MOST_ROUNDS,
) -> dict[str, list[float]]:
    """Return the seconds of each call in each round; every second round goes backwards.

    Args:
        budget: seconds after which no further round begins, once there are `least`.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    spent = 0.0
    for number in range(most):
        if number >= least and spent >= budget:
            break
        for name in calls if number % 2 == 0 else reversed(calls):
            seconds[name].append(clock(calls[name]))
            spent += seconds[name][-1]
    return seconds


def wall_clock(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def cuda_clock(call: Callable[[], object]) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000  # of milliseconds


def clock_of(device: torch.device) -> Clock:
    return cuda_clock if device.type == "cuda" else wall_clock


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """Return the most bytes that PyTorch's allocator held during a call, beyond what it held before."""
    gc.collect()  # what an earlier call left behind must not be freed, and counted as less, during this one
    return _cuda_peak(call, device) if device.type == "cuda" else _cpu_peak(call)


def _cuda_peak(call: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _cpu_peak(call: Callable[[], object]) -> int:
    # The allocator of the CPU keeps no books; the profiler sees each of its steps.
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        call()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(accumulate((event.nbytes() for event in events), initial=0))


def run(task: str, call: Call, x: Tensor, y: Tensor) -> None:
    """Score the images, or get the gradient of their scores to the first ones, as a training step does."""
    if task == FORWARD:
        with torch.no_grad():
            call(x, y)
    else:
        # the same memory as a leaf of its own: no gradient is left on it from the call before
        call(x.detach().requires_grad_(), y).sum().backward()


def images(batch: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return seeded noise (N, 3, H, W) in [0, 1] and the same distorted: time does not depend on what images show."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, 3, size, size, generator=generator)
    y = torch.rand(batch, 3, size, size, generator=generator).sub_(0.5).mul_(0.2).add_(x).clamp_(0, 1)
    return x.to(device), y.to(device)
