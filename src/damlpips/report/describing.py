"""A line that cites what rows were scored with."""

from dataclasses import asdict

from damlpips.models.registry import SETTINGS
from damlpips.scoring.reading import Reading


def described(metric: str, backbone: str, weights: str, options: str) -> str:
    """Return what the columns of a row say of its metric as one line; options that change nothing are left out.

    Example:
        >>> described("damlpips", "nano", "nano:447c84c09e55f1e2", "alpha=error resize=none version=1")
        'DAMLPIPS (nano, weights 447c84c0; version=1)'
        >>> described("lpips", "alex", "alex:7be5be79", "alpha=white colour=convert heads=v0.1")
        'LPIPS (alex, weights 7be5be79; alpha=white, heads=v0.1)'
    """
    usual = {name: str(value) for name, value in asdict(Reading()).items()}
    parts = [part.partition("=")[::2] for part in options.split(" ") if part]
    told = [f"{name}={value}" for name, value in parts if value not in ("none", usual.get(name))]
    name = next((title for title in SETTINGS if title.lower() == metric), metric)
    digest = weights.rpartition(":")[2][:8]
    network = f"{backbone}, weights {digest}" if digest else backbone
    return f"{name} ({'; '.join(filter(None, (network, ', '.join(told))))})"
