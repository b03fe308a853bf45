"""The names by which `pyiqa.create_metric` builds DAMLPIPS and LPIPS.

Registered by `damlpips.register()`, after `import damlpips` wherever pyiqa is imported, and as a plugin by pyiqa itself
from 0.1.16 on when it first looks for a network. Nothing of the metrics is loaded before one is built.

Tried with pyiqa 0.1.14.1, the oldest that `pyproject.toml` allows and `make test` runs, 0.1.15 and 0.1.16.
"""

from importlib import import_module
from typing import Any

from damlpips.models.registry import Metric, in_libraries

_NETWORKS = "damlpips.adapters.pyiqa_networks"
# of each metric the network there, and the range of its scores
_KINDS = {Metric.DAMLPIPS: ("DamlpipsNet", "0, inf"), Metric.LPIPS: ("LpipsFastNet", "0, 1")}
NAMES = in_libraries()
# what pyiqa would call a network of this package that it has itself (docs/upstream in the repository)
_PYIQAS_OWN = "DAMLPIPS"


def _configuration(metric: Metric, options: dict[str, Any]) -> dict[str, Any]:
    network, score_range = _KINDS[metric]
    return {
        "metric_opts": {"type": network, **options},
        "metric_mode": "FR",
        "lower_better": True,
        "score_range": score_range,
    }


def register() -> list[str]:
    """Enter the names in pyiqa's table and the networks in its registry, but those that it has; return the names."""
    # Importing pyiqa calls this function, which has to be there by then.
    from pyiqa.default_model_configs import DEFAULT_CONFIGS
    from pyiqa.utils.registry import ARCH_REGISTRY

    wanted = {name: _configuration(*row) for name, row in NAMES.items()}
    for name, configuration in wanted.items():
        known = DEFAULT_CONFIGS.get(name, configuration)
        if known != configuration and known["metric_opts"].get("type") != _PYIQAS_OWN:
            raise RuntimeError(f"pyiqa knows a metric {name!r} already, and it is not this package's")
    for network, _ in _KINDS.values():
        _register_network(ARCH_REGISTRY, network)
    for name, configuration in wanted.items():
        DEFAULT_CONFIGS.setdefault(name, configuration)
    return list(wanted)


def _register_network(registry: Any, name: str) -> None:
    """Enter a network in pyiqa's registry, if it can by the name of what is to be imported."""
    known = registry._obj_map.get(name)
    if known is not None and known.__module__ != _NETWORKS:
        raise RuntimeError(f"pyiqa has a network {name!r} already, and it is not this package's")
    if known is None and hasattr(registry, "register_lazy"):
        registry.register_lazy(name, f"{_NETWORKS}:{name}", override=True)
    elif known is None:
        registry.register(getattr(import_module(_NETWORKS), name))
