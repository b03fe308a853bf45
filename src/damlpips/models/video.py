"""Videos, (N, T, 3, H, W): what compares images compares their frames, one video after the other, a part at a time.

Frames are images like any other to the rest of the package: T is folded into the batch here, and comes back here.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from damlpips.models.references import as_keys
from damlpips.nets.encoded import Encoded

# An accelerator is kept busy by this many times the frames that go through the network on a CPU at a time.
ACCELERATED = 16

_Method = TypeVar("_Method", bound=Callable[..., Tensor])


def count(x: Tensor | Encoded, y: Tensor | Encoded) -> int:
    """Return how many videos a pair of batches holds.

    Raises:
        TypeError: no tensor of videos in either place.
        ValueError: not (N, T, 3, H, W), no video or no frame, unequal numbers of videos or frames.
    """
    given = [(what, v) for what, v in (("first video", x), ("second video", y)) if not isinstance(v, Encoded)]
    for what, v in given:
        if not isinstance(v, Tensor):
            kind = f"{type(v).__module__}.{type(v).__name__}"
            raise TypeError(f"{what}: expected a torch.Tensor (N, T, 3, H, W) with video=True, got {kind}")
        if v.ndim != 5:
            hint = ": images need video=False, the frames of one video x.unsqueeze(0)" if v.ndim == 4 else ""
            raise ValueError(f"{what}: expected (N, T, 3, H, W) with video=True, got {tuple(v.shape)}{hint}")
        if 0 in v.shape[:2]:
            raise ValueError(f"{what}: expected at least one video of at least one frame, got {tuple(v.shape)}")
    if not given:
        raise TypeError("video=True: expected videos (N, T, 3, H, W) in one place at least, got encoded frames in both")
    n, frames = given[0][1].shape[:2]
    if len(given) == 2 and given[1][1].shape[:2] != (n, frames):
        m, others = given[1][1].shape[:2]
        raise ValueError(
            f"the two batches must hold as many videos of as many frames, got {n} of {frames} and {m} of {others}"
        )
    for encoded in (x, y):
        if isinstance(encoded, Encoded) and len(encoded) not in (1, frames):
            raise ValueError(f"encoded frames: expected those of one video, {frames}, or a still, got {len(encoded)}")
    return n


def frame_by_frame(*, mean: bool = False) -> Callable[[_Method], _Method]:
    """Let a method of a module that compares images (N, 3, H, W) compare videos, where the module has `video`.

    What the method returns of T frames, (T, ...), becomes (N, T, ...), or with `mean` the mean over frames, (N, ...).
    """

    def changed(method: _Method) -> _Method:
        @functools.wraps(method)
        def of_videos(self: Any, x: Any, y: Any, **options: Any) -> Tensor:
            if not self.video:
                return method(self, x, y, **options)
            found = []
            keys = options.pop("reference_key", None)
            for parts in _videos(self, x, y, keys):
                frames = torch.cat([method(self, a, b, **options, **named) for a, b, named in parts])
                found.append(frames.mean(0) if mean else frames)
            return torch.stack(found)

        return cast(_Method, of_videos)

    return changed


_Part = tuple[Tensor | Encoded, Tensor | Encoded, dict[str, Any]]


def _videos(model: Any, x: Tensor | Encoded, y: Tensor | Encoded, keys: Any) -> Iterator[Iterator[_Part]]:
    """Yield of each pair of videos the parts, as pairs of frames and what names them."""
    n = count(x, y)
    names = None if keys is None else as_keys(keys, n)
    for k in range(n):
        a, b = (v if isinstance(v, Encoded) else v[k] for v in (x, y))
        yield _parts(model, a, b, None if names is None else names[k])


def _parts(model: Any, a: Tensor | Encoded, b: Tensor | Encoded, name: Any) -> Iterator[_Part]:
    frames = max(len(a), len(b))
    step = model.frames_at_once(a if isinstance(a, Tensor) else b)
    for start in range(0, frames, step):
        part = slice(start, min(start + step, frames))
        # one encoded frame stands in for all
        first, second = (v if isinstance(v, Encoded) and len(v) == 1 else v[part] for v in (a, b))
        named = {} if name is None else {"reference_key": [(name, t) for t in range(part.start, part.stop)]}
        yield first, second, named
