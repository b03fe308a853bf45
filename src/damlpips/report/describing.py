"""A line that cites what rows were scored with."""

from collections.abc import Iterator

from damlpips.models.registry import SETTINGS
from damlpips.scoring.reading import Reading

USUAL = Reading().in_rows()
# what an option says of the files, not of the metric that sees them
OF_FILES = {*USUAL, "masks"}


def described(metric: str, backbone: str, weights: str, options: str) -> str:
    """Return what the columns of a row say of its metric as one line; options that change nothing are left out.

    Example:
        >>> described("damlpips", "nano", "nano:447c84c09e55f1e2", "alpha=error resize=none version=1")
        'DAMLPIPS (nano, weights 447c84c0; version=1)'
        >>> described("lpips", "alex", "alex:7be5be79", "alpha=white colour=convert heads=v0.1")
        'LPIPS (alex, weights 7be5be79; alpha=white, heads=v0.1)'
    """
    told = [f"{name}={value}" for name, value in _parts(options) if value not in ("none", USUAL.get(name))]
    name = next((title for title in SETTINGS if title.lower() == metric), metric)
    digest = weights.rpartition(":")[2][:8]
    network = f"{backbone}, weights {digest}" if digest else backbone
    return f"{name} ({'; '.join(filter(None, (network, ', '.join(told))))})"


def of_files(options: str) -> str:
    """Return which of a row's options say how files were read, without those that change nothing.

    Example:
        >>> of_files("alpha=error colour=ignore heads=v0.1 masks=named")
        'colour=ignore, masks=named'
    """
    told = (f"{name}={value}" for name, value in _parts(options) if name in OF_FILES and value != USUAL.get(name))
    return ", ".join(told)


def of_metric(options: str) -> str:
    """Return the other options of a row, those of the metric.

    Example:
        >>> of_metric("alpha=error colour=ignore heads=v0.1 masks=named")
        'heads=v0.1'
    """
    return " ".join(f"{name}={value}" for name, value in _parts(options) if name not in OF_FILES)


def _parts(options: str) -> Iterator[tuple[str, str]]:
    for part in options.split(" "):
        name, _, value = part.partition("=")
        if name:
            yield name, value
