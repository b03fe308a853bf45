"""The metrics by name: what `--metric`, `damlpips agree`, pyiqa and piq call them, and what each name stands for.

Importing this module loads no torch, so that the command line can list the names at once. A new name is an entry of
`named`; the libraries' own conventions are their adapters' concern.
"""

from enum import Enum
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

from damlpips.models.settings import DAMLPIPS_VERSIONS, DAMLPIPSSettings, LPIPSSettings, Settings
from damlpips.nets.table import BACKBONES, DEFAULT_BACKBONE

SETTINGS: dict[str, type[Settings]] = {each.metric: each for each in (DAMLPIPSSettings, LPIPSSettings)}


class Metric(str, Enum):
    """The distances of this package. A member has the name of its class."""

    DAMLPIPS = "damlpips"
    LPIPS = "lpips"

    @property
    def kind(self) -> Any:
        """The class, which loads torch."""
        return getattr(import_module("damlpips.models"), self.name)

    @property
    def settings(self) -> type[Settings]:
        """What its options are declared in."""
        return SETTINGS[self.name]


class Named(NamedTuple):
    """What a name stands for: a distance, and options of it."""

    metric: Metric
    options: dict[str, Any]

    def build(self, **options: Any) -> Any:
        """Return the module, with further options."""
        return self.metric.kind(**{**self.options, **options})


@cache
def named() -> dict[str, Named]:
    """Return what each name stands for.

    `damlpips` has the default backbone, `damlpips-BACKBONE` another; with `:1` or `:2` behind it, they are of that
    version. `lpips-BACKBONE` is LPIPS as published,
    `lpips-BACKBONE:COMPARISON` a variant with uniform heads, as `lpips-alex:spatial+sort`, and the last with `:raw`
    behind it does not divide features by their norm.
    """
    from damlpips.ops.distance import COMPARISONS

    names = {"damlpips": Named(Metric.DAMLPIPS, {"backbone": DEFAULT_BACKBONE})}
    names |= {f"damlpips-{backbone}": Named(Metric.DAMLPIPS, {"backbone": backbone}) for backbone in BACKBONES}
    names |= {
        f"{name}:{version}": Named(Metric.DAMLPIPS, {**of.options, "version": version})
        for name, of in list(names.items())
        for version in DAMLPIPS_VERSIONS
    }
    names |= {f"lpips-{backbone}": Named(Metric.LPIPS, {"backbone": backbone}) for backbone in published()}
    for backbone in BACKBONES:
        for comparison in COMPARISONS:
            variant = {"backbone": backbone, "heads": "uniform", "comparison": comparison}
            names[f"lpips-{backbone}:{comparison}"] = Named(Metric.LPIPS, variant)
            names[f"lpips-{backbone}:{comparison}:raw"] = Named(Metric.LPIPS, {**variant, "channel_norm": False})
    return names


def in_libraries() -> dict[str, Named]:
    """Return what each name stands for in pyiqa and piq, whose `lpips` is their own."""
    names = {"damlpips": Named(Metric.DAMLPIPS, {"backbone": DEFAULT_BACKBONE})}
    names |= {f"damlpips-{backbone}": Named(Metric.DAMLPIPS, {"backbone": backbone}) for backbone in published()}
    fast = {"lpips-fast" if backbone == "alex" else f"lpips-fast-{backbone}": backbone for backbone in published()}
    return names | {name: Named(Metric.LPIPS, {"backbone": backbone}) for name, backbone in fast.items()}


def published() -> list[str]:
    """Return the backbones that LPIPS was published with: those that have heads."""
    from damlpips.nets.weights import cards

    return list(cards()["head"]["v0.1"])
