"""Whether another version of this package gives the same scores, however they are computed.

Scores, gradients and maps of both distances are computed by this version and by the one in another folder, in a process
each, for every combination of options below, and compared. Equal to the bit is the rule; what differs is listed, and
above 1e-7 of its value it fails.

    python -m benchmarks.same_scores OTHER_CHECKOUT/src
"""

import argparse
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

# of a score; causes of differences stand in CAUSES
MOST = 1e-7
SIDES = ((48, 64), (96, 80))
CAUSES = {
    "compile": "the images are resampled before the compiled program, no longer within it",
}


def images(n: int, size: tuple[int, int], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    x = torch.rand(n, 3, *size, generator=generator)
    y = (x + 0.2 * torch.randn(x.shape, generator=generator)).clamp(0, 1)
    return (
        ((x * 255).to(torch.uint8), (y * 255).to(torch.uint8)) if dtype == torch.uint8 else (x.to(dtype), y.to(dtype))
    )


def metric(kind: str, **options: Any) -> Any:
    import damlpips

    return damlpips.LPIPS("nano", heads="uniform", **options) if kind == "LPIPS" else damlpips.DAMLPIPS(**options)


def cases() -> Iterator[tuple[str, list[Tensor]]]:
    """Yield each case's name and what it gives."""
    ways = itertools.product(
        ("LPIPS", "DAMLPIPS"), (False, True), (None, 64), (None, 72, "reference", (40, 56)), (False, True)
    )
    for kind, deterministic, tile, resize, keyed in ways:
        options = {"deterministic": deterministic, "tile": tile, "resize": resize}
        if kind == "DAMLPIPS" and tile is not None:
            options["viewing_side"] = None
        for dtype, network in ((torch.float32, None), (torch.uint8, None), (torch.float32, torch.bfloat16)):
            module = metric(kind, dtype=network, **options)
            for n, size in itertools.product((1, 3, 40), SIDES):
                if n == 40 and (deterministic or network is not None):
                    continue
                x, y = images(n, size, dtype)
                x = x[..., : size[0] - 8, :] if resize == "reference" else x
                named = {"reference_key": list(range(n))} if keyed else {}
                module.clear_references()
                found = [module.per_layer(x, y, **named)]
                found += [module.per_layer(x, y, **named)] if keyed else []  # from the cache
                words = (kind, deterministic, tile, resize, keyed, dtype, network, n, size)
                yield " ".join(map(str, words)), found
    yield from _others()


def _others() -> Iterator[tuple[str, list[Tensor]]]:
    """Yield the special cases: gradients, maps, encoded images, videos, large images, a compiled program."""
    for kind, size in itertools.product(("LPIPS", "DAMLPIPS"), SIDES):
        for options in ({}, {"deterministic": True}, {"tile": 64}, {"resize": 72}):
            options = {**options, "viewing_side": None} if kind == "DAMLPIPS" and "tile" in options else options
            module = metric(kind, **options)
            x, y = images(3, size)
            x.requires_grad_()
            module(x, y).sum().backward()
            yield f"{kind} gradient {options} {size}", [x.grad if x.grad is not None else x]
            with torch.no_grad():
                yield f"{kind} map {options} {size}", [module.spatial_map(x, y)]
                yield (
                    f"{kind} encoded {options} {size}",
                    [
                        module(x, module.encode(y)),
                        module(module.encode(x[:1].detach()), y),
                    ],
                )
        with torch.no_grad():
            x, y = images(6, size)
            of_videos = metric(kind, video=True)
            x, y = x.reshape(2, 3, *x.shape[1:]), y.reshape(2, 3, *y.shape[1:])
            yield f"{kind} video {size}", [of_videos.per_layer(x, y), of_videos.spatial_map(x, y)]
            yield f"{kind} video keys {size}", [of_videos(x, y, reference_key=["a", "b"]) for _ in range(2)]
    with torch.no_grad():
        for kind, n in itertools.product(("LPIPS", "DAMLPIPS"), (1, 9)):
            yield f"{kind} large {n}", [metric(kind)(*images(n, (300, 270)))]
        if os.environ.get("DAMLPIPS_COMPILE") != "off":
            yield "compile", [metric("DAMLPIPS", compile=True)(*images(2, (300, 270)))]


def compare(found: dict[str, list[Tensor]], other: dict[str, list[Tensor]]) -> tuple[int, list[str]]:
    """Return how many cases are equal to the bit, and a line for each other one."""
    lines = []
    for name in [*found, *(name for name in other if name not in found)]:
        if name not in found or name not in other:
            lines.append(f"{name}: only one version has it")
            continue
        apart = max(
            float(((a - b).abs().amax() / b.abs().amax().clamp(min=1e-30)) if a.shape == b.shape else torch.inf)
            for a, b in zip(found[name], other[name], strict=True)
        )
        if apart > 0:
            cause = CAUSES.get(name.split(" ", 1)[0], "no cause is known")
            lines.append(f"{name}: {apart:.1e} apart ({cause}){' FAILS' if apart > MOST else ''}")
    return len(found) - len(lines), lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the folder `src` of another version")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write is not None:
        torch.save(dict(cases()), given.write)
        return 0
    here = Path(__file__).resolve().parents[1]
    with TemporaryDirectory() as folder:
        files = [Path(folder) / "here.pt", Path(folder) / "other.pt"]
        for source, file in zip((here / "src", given.other.resolve()), files, strict=True):
            environment = {**os.environ, "PYTHONPATH": str(source)}
            command = [sys.executable, "-m", "benchmarks.same_scores", str(source), "--write", str(file)]
            subprocess.run(command, check=True, env=environment, cwd=here)
        found, other = (torch.load(file, weights_only=True) for file in files)
    equal, lines = compare(found, other)
    print(f"{len(found)} cases, {equal} equal to the bit", *lines, sep="\n")
    return int(any("FAILS" in line or "only one" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
