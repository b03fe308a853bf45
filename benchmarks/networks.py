"""The comparison of networks of the LPIPS paper (arXiv 1801.03924), on any judged sets.

    python benchmarks/networks.py SET... [--shorter-side PIXELS] [--network NAME ...] [--without NETWORK ...]

SET is what `damlpips agree` takes: BAPPS's 2afc/val, say, whose families are a column each. Prints a Markdown table of
agreement with people: a row for each low-level metric, for LPIPS with uniform heads on random networks
(`benchmarks/random_networks.py`), on the embedded one and on supervised ones, and for LPIPS with its published heads.

`--network` adds rows: `timm:NAME` or a `FILE.py:NAME` that makes a `damlpips.Backbone` is LPIPS with uniform heads on
it. `--without vgg` leaves out the rows of a network. What cannot be computed is named on stderr, and the exit status
is then 3.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from damlpips.cli.agree import load_sets
from damlpips.evaluation.agreement import Agreement, agree
from damlpips.evaluation.cache import CacheError, DistanceCache
from damlpips.evaluation.custom import MetricFileError
from damlpips.evaluation.datasets import DatasetError
from damlpips.evaluation.datasets.layouts import AUTO
from damlpips.evaluation.named import NamedMetric, UnavailableMetricError, UnknownMetricError, build
from damlpips.evaluation.tables import Table, as_csv, as_markdown, main_table

RANDOM = Path(__file__).with_name("random_networks.py")
NETWORKS = ("squeeze", "alex", "vgg")
# something is missing from the table, as `damlpips agree` says it
INCOMPLETE = 3


@dataclass(frozen=True)
class Row:
    """A metric of the comparison.

    Attributes:
        kind: what the network has learned from.
        label: how the table calls it.
        name: as for `damlpips.evaluation.named.build`.
        network: the one of `NETWORKS` that it is on, if any.
    """

    kind: str
    label: str
    name: str
    network: str | None = None


ROWS = (
    Row("low-level", "MSE", "mse"),
    Row("low-level", "PSNR", "piq:psnr"),
    Row("low-level", "SSIM", "piq:ssim"),
    Row("low-level", "FSIM", "piq:fsim"),
    *(Row("random", f"{n}, torchvision's default", f"{RANDOM}:{n}_default", n) for n in NETWORKS),
    # VGG's default is Gaussian
    *(Row("random", f"{n}, Gaussian", f"{RANDOM}:{n}_gaussian", n) for n in NETWORKS[:2]),
    Row("taught by metrics", "nano", "lpips-nano:spatial"),
    *(Row("supervised", n, f"lpips-{n}:spatial", n) for n in NETWORKS),
    *(Row("supervised, lin", f"{n}, heads v0.1", f"lpips-{n}", n) for n in NETWORKS),
)


def built(rows: Sequence[Row]) -> list[NamedMetric]:
    """Return the metrics that can be built, under the labels of their rows; say of the others why they cannot."""
    metrics = []
    for row in rows:
        try:
            metrics.append(replace(build(row.name), name=row.label))
        except UnavailableMetricError as error:
            print(f"left out: {error}", file=sys.stderr)
    return metrics


def table(found: Agreement, rows: Sequence[Row]) -> Table:
    """Return the headline figures with the kind of each network before them."""
    kinds = {row.label: row.kind for row in rows}
    main = main_table(found)
    return replace(
        main,
        columns=("learned from", *main.columns),
        # the ceilings are people's
        rows=tuple((kinds.get(cells[0], "people"), *cells) for cells in main.rows),
        labels=main.labels + 1,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", metavar="SET", type=Path, nargs="+")
    parser.add_argument("--network", metavar="NAME", action="append", default=[])
    parser.add_argument("--without", choices=NETWORKS, action="append", default=[])
    parser.add_argument("--shorter-side", metavar="PIXELS", type=int)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--csv", metavar="FILE", type=Path)
    parser.add_argument("--cache", metavar="FILE", type=Path)
    options = parser.parse_args(arguments)
    rows = [row for row in ROWS if row.network not in options.without]
    rows += [Row("given", name, name) for name in options.network]
    console = Console(stderr=True)
    try:
        sets = load_sets(options.sets, AUTO)
        metrics = built(rows)
        with (
            DistanceCache(options.cache) as cache,
            Progress(console=console, transient=True, disable=not console.is_terminal) as bar,
        ):
            task = bar.add_task("")
            found = agree(
                *(metrics, sets),
                cache=cache,
                shorter_side=options.shorter_side,
                samples=options.samples,
                headline_only=True,
                progress=lambda doing, done, of: bar.update(task, description=doing, completed=done, total=of),
            )
    except (CacheError, DatasetError, MetricFileError, UnknownMetricError, ValueError) as error:
        parser.error(str(error))
    for failure in found.failures:
        print(f"{failure.metric} is left out of {failure.judged_set}: {failure.reason}", file=sys.stderr)
    if options.csv is not None:
        options.csv.write_text(as_csv(found))
    print(as_markdown(table(found, rows)), end="")
    return INCOMPLETE if found.failures or len(metrics) < len(rows) else 0


if __name__ == "__main__":
    sys.exit(main())
