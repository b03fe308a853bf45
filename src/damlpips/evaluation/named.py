"""Any metric by name, this package's or another library's, as one kind of object: images in, distances out.

Scores of similarity are turned into distances here, once: everywhere else lower is closer.
"""

import contextlib
import difflib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from damlpips.evaluation import custom
from damlpips.evaluation.custom import MetricFileError
from damlpips.evaluation.peers import LIBRARIES, Library
from damlpips.files import digest
from damlpips.models.encoder import Images
from damlpips.models.registry import Metric, Named, named
from damlpips.nets.table import BACKBONES, TIMM
from damlpips.nets.weights import weights_dir
from damlpips.version import SCORES, __version__

OWN = "damlpips"
MSE = "mse"
HEADS = "heads"
# what a name has behind it: heads=FILE,weights=FILE
FILE = re.compile(r"(?:heads|weights)=")
FILES = re.compile(r",(?=(?:heads|weights)=)")


class UnknownMetricError(ValueError):
    """A name that no metric has; the message lists the nearest."""


class UnavailableMetricError(RuntimeError):
    """A metric that cannot be built here; the message names it and says why: a library, weights or a download."""


@dataclass(frozen=True)
class NamedMetric:
    """A full-reference metric under its name.

    Attributes:
        name: as given to `build`.
        lower_is_closer: whether the library's own score is a distance; `distances` are, whatever this says.
        identity: a text of everything that a distance depends on besides the images.
        device: the one that images have to be on.
        score: (distorted, reference) to the library's own scores.
        encode: what a reference can be put through once for many distances: this package's backbone, or nothing.
    """

    name: str
    lower_is_closer: bool
    identity: str
    device: torch.device
    score: Callable[[Any, Any], Tensor] = field(repr=False)
    encode: Callable[[Tensor], Images] = field(repr=False)

    @torch.no_grad()
    def distances(self, reference: Images, distorted: Tensor) -> Tensor:
        """Return the distance of each pair, (N,), float64 on the CPU; lower is closer.

        A similarity s becomes the distance -s: agreement is about order.

        Images are (N, 3, H, W) in [0, 1] on `device`; the reference may be what `encode` returned for it. The library
        raises what it likes for images that it refuses.
        """
        scores = self.score(distorted, reference).detach().to("cpu", torch.float64)
        return scores if self.lower_is_closer else -scores


def build(
    name: str, *, device: torch.device | str = "cpu", weights: str | os.PathLike[str] | None = None
) -> NamedMetric:
    """Build a metric by its name, loading what it needs, downloads included.

    This package's are `mse`, `damlpips` (the default backbone), `damlpips-BACKBONE`, `lpips-BACKBONE` (as published),
    `lpips-BACKBONE:COMPARISON` (uniform heads; `lpips-alex:spatial+sort`), and the last with `:raw` behind it (features
    that are not divided by their norm). Files go behind `heads=` and `weights=`, as `damlpips fit` writes them:
    `lpips-BACKBONE:heads=FILE`, `lpips-BACKBONE:heads=FILE,weights=FILE`, `damlpips-BACKBONE:weights=FILE`. Another
    library's begin with its name: `pyiqa:NAME`, `piq:NAME`,
    `torchmetrics:NAME`. `names` lists them all. `timm:NAME` is LPIPS with uniform heads on any model of timm.

    `FILE.py:NAME` is a metric of one's own: NAME, called without arguments, makes a callable of (distorted, reference),
    each (N, 3, H, W) in [0, 1], that returns N distances, (N,); lower is closer. A `torch.nn.Module` is moved to the
    device and put in eval mode; a `damlpips.Backbone` is LPIPS on it, with uniform heads. The identity has the SHA-256
    of the file, and of all weights of a module.

    Args:
        weights: the file of the backbone's weights, for this package's metrics; None as for `damlpips.LPIPS`.

    Raises:
        UnknownMetricError: no metric has this name; lists the nearest.
        MetricFileError: a file that is not there, a name that is not in it or makes no metric.
        UnavailableMetricError: the library is not installed; weights are missing, damaged, or not taken; a download
            failed; ...
    """
    device = torch.device(device)
    is_custom = custom.split(name) is not None
    library, of_library = (None, name) if is_custom else _split(name)
    if weights is not None and (is_custom or library is not None or name == MSE):
        raise UnavailableMetricError(f"{name}: takes no weights, got {os.fspath(weights)!r}")
    if is_custom:
        return _build_custom(name, device)
    if library is None:
        return _build_own(name, device, weights)
    with _unavailable(name), _stdout_kept_clean():
        _check_known(name, library.full_names())
        score, lower_is_closer, options = library.build(of_library, device)
    options = {**options, "scores": SCORES}
    identity = _identity(library.name, of_library, version(library.name), device, options)
    return NamedMetric(name, lower_is_closer, identity, device, score, _unchanged)


def names() -> list[str]:
    """Return every name that `build` takes, of the libraries that are installed; importing pyiqa takes seconds."""
    known = [MSE, *named()]
    for library in LIBRARIES.values():
        if find_spec(library.name) is not None:
            with _stdout_kept_clean():
                known += library.full_names()
    return known


def _split(name: str) -> tuple[Library | None, str]:
    """Return the library that a name begins with, None for this package's, and its name there."""
    before, colon, after = name.partition(":")
    if not colon or before not in LIBRARIES:
        return None, name
    if find_spec(before) is None:
        raise UnavailableMetricError(f"{name}: {before} is not installed: pip install 'damlpips[{before}]'")
    return LIBRARIES[before], after


def _check_known(name: str, known: Iterable[str]) -> None:
    """Raise an UnknownMetricError with the names nearest to `name`, whatever their case and library."""
    known = list(known)
    if name in known:
        return
    without_library = {n.partition(":")[2].lower(): n for n in known if n.partition(":")[0] in LIBRARIES}
    spelled = without_library | {n.lower(): n for n in known}
    near = dict.fromkeys(spelled[n] for n in difflib.get_close_matches(name.lower(), spelled, n=5, cutoff=0.5))
    hint = f"did you mean {', '.join(near)}?" if near else "no name is near it"
    raise UnknownMetricError(f"unknown metric {name!r}: {hint}")


def _build_own(name: str, device: torch.device, weights: str | os.PathLike[str] | None) -> NamedMetric:
    if name == MSE:
        identity = _identity(OWN, name, __version__, device, {"scores": SCORES})
        return NamedMetric(name, True, identity, device, _mse, _unchanged)
    # other libraries' are suggested, too, where they are known without importing them
    others = (n for library in LIBRARIES.values() if library.is_light for n in library.full_names())
    own = dict(named())
    if name.startswith(TIMM):
        own[name] = Named(Metric.LPIPS, {"backbone": name, "heads": "uniform"})
    known, files = _with_files(name)
    if HEADS in files:  # the network needs none that are published
        own |= {f"lpips-{backbone}": Named(Metric.LPIPS, {"backbone": backbone}) for backbone in BACKBONES}
    _check_known(known, [*own, MSE, *others])
    with _unavailable(name):
        model = own[known].build(**{"weights": weights, **files}).to(device).load()
        # the table of weights pins the contents of each file that is used by default
        options = {**model.configuration(), "scores": SCORES, "weights": digest(weights_dir() / "cards.toml")}
        if HEADS in files:
            options[HEADS] = model.settings.spellings()[HEADS].text(files[HEADS])
    identity = _identity(OWN, type(model).__name__, __version__, device, options)
    return NamedMetric(name, True, identity, device, model, torch.no_grad()(model.encode))


def _with_files(name: str) -> tuple[str, dict[str, str]]:
    """Return the name before the files that a name gives, and these: by heads and weights."""
    known, _, rest = name.partition(":")
    parts = FILES.split(rest)
    return (known, dict(part.split("=", 1) for part in parts)) if all(map(FILE.match, parts)) else (name, {})


def _build_custom(name: str, device: torch.device) -> NamedMetric:
    with _unavailable(name), _stdout_kept_clean():
        score, encode, options = custom.build(name, device)
    _, attribute = custom.split(name) or (None, name)
    identity = _identity("file", attribute, __version__, device, {**options, "scores": SCORES})
    return NamedMetric(name, True, identity, device, score, encode or _unchanged)


def _mse(x: Tensor, y: Tensor) -> Tensor:
    return (x.double() - y.double()).square().mean((1, 2, 3))


def _unchanged(x: Tensor) -> Tensor:
    return x


def _identity(library: str, metric: str, release: str, device: torch.device, options: Mapping[str, Any]) -> str:
    # kernels, and so the last digits of a score, differ between devices and versions of torch
    machine = {"device": device.type, "torch": torch.__version__}
    described = {"library": library, "version": release, "metric": metric, "options": options, **machine}
    return json.dumps(described, sort_keys=True, default=repr)


@contextlib.contextmanager
def _unavailable(name: str) -> Iterator[None]:
    try:
        yield
    except (UnknownMetricError, MetricFileError):
        raise
    except Exception as error:  # libraries fail in ways of their own: no network, a file that is damaged, ...
        what = " ".join(str(error).split()) or "no reason given"
        raise UnavailableMetricError(f"{name}: cannot be built ({type(error).__name__}: {what})") from error


def _stdout_kept_clean() -> contextlib.AbstractContextManager[Any]:
    """Send what libraries print about their downloads to stderr: a table may go to stdout."""
    return contextlib.redirect_stdout(sys.stderr)
