"""Videos, (N, T, 3, H, W): a wrapper outside of all that compares images.

Frames are images like any other to the rest of the package: T is folded into the batch here, and comes back here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from damlpips import checks
from damlpips.models import inputs
from damlpips.models.encoder import Encoder, Images
from damlpips.models.inputs import Pair
from damlpips.models.references import as_keys
from damlpips.models.settings import Settings
from damlpips.nets.encoded import Encoded
from damlpips.ops.execution import on_cpu

# An accelerator is kept busy by this many times the frames that go through the network on a CPU at a time.
ACCELERATED = 16


@dataclass(frozen=True, eq=False)
class VideoPair:
    """Two batches of N videos with as many frames; the frames are checked part by part, as they are compared.

    Attributes:
        x, y: (N, T, 3, H, W); or in one place the encoded frames of one video, or a still, for each of the N.
        count: N.
        mask: (N, T, 1, H, W), which places count; None: all.
    """

    x: Images
    y: Images
    count: int
    settings: Settings
    encoder: Encoder
    mask: Tensor | None = None

    def __len__(self) -> int:
        return self.count

    def compared(self, compare: Callable[[Pair, Any], Tensor], keys: Any = None, *, mean: bool = False) -> Tensor:
        """Return what `compare` makes of the frames of each video, (N, T, ...), or with `mean` its mean, (N, ...).

        Args:
            compare: takes a pair of frames, and keys of the second ones or None.
            keys: one a video.
        """
        names = None if keys is None else as_keys(keys, self.count)
        found = []
        for k in range(self.count):
            parts = self._parts(k, None if names is None else names[k])
            frames = torch.cat([compare(pair, frame_keys) for pair, frame_keys in parts])
            found.append(frames.mean(0) if mean else frames)
        return torch.stack(found)

    def _parts(self, k: int, name: Any) -> Iterator[tuple[Pair, Any]]:
        """Yield the frames of a pair of videos, as many at a time as go through the network, and their keys."""
        x, y = (v if isinstance(v, Encoded) else v[k] for v in (self.x, self.y))
        images = x if isinstance(x, Tensor) else y
        step = self.encoder.pass_count((images.shape[-2], images.shape[-1]), ACCELERATED)  # type: ignore[union-attr]
        frames = max(len(x), len(y))
        for start in range(0, frames, step):
            part = slice(start, min(start + step, frames))
            # one encoded frame stands in for all
            a, b = (v if isinstance(v, Encoded) and len(v) == 1 else v[part] for v in (x, y))
            named = None if name is None else [(name, t) for t in range(part.start, part.stop)]
            mask = None if self.mask is None else self.mask[k, part]
            yield inputs.prepared(a, b, self.settings, self.encoder, mask), named


def prepared(x: Images, y: Images, settings: Settings, encoder: Encoder, mask: Any = None) -> VideoPair:
    """Check a pair of batches of videos; the counterpart of `inputs.prepared`.

    Raises:
        TypeError: no tensor of videos in either place.
        ValueError: not (N, T, 3, H, W), no video or no frame, unequal numbers of videos or frames.
    """
    given = [(what, v) for what, v in (("first video", x), ("second video", y)) if not isinstance(v, Encoded)]
    for what, v in given:
        checks.image_batch(v, what=what, channels=encoder.channels, grey=settings.grey, video=True)
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
    if mask is not None:
        images = given[-1][1]
        checks.mask(mask, n, (images.shape[-2], images.shape[-1]), images.device, frames)
        if on_cpu(mask):
            checks.mask_is_not_empty(mask)
        mask = mask.expand(n, frames, -1, -1, -1)
    return VideoPair(x, y, n, settings, encoder, mask)
