"""`lpips.LPIPS` by its own arguments and shapes, for code that is to change one import: `lpips` need not be installed.

    import damlpips.adapters.lpips as lpips

or, where the import is somebody else's, `sys.modules["lpips"] = damlpips.adapters.lpips` before it runs. Beside the
class there is what the scripts of `lpips` read and show images with.
"""

from typing import Any

import torch
from torch import Tensor, nn

from damlpips import checks
from damlpips.models.encoder import Images
from damlpips.models.lpips import LPIPS as LPIPSModule
from damlpips.ops import distance

NETS = {"alex": "alex", "vgg": "vgg", "vgg16": "vgg", "squeeze": "squeeze"}
VERSIONS = {"0.1": "v0.1", "0.0": "v0.0"}
# Arguments of `lpips` for training, and what to do instead.
REFUSED = {
    "pretrained": (False, "random heads are for training them: pass a file of heads as model_path, or lpips=False"),
    "pnet_rand": (True, "for a network with random weights use damlpips.LPIPS(net, weights=a file of them)"),
    "pnet_tune": (True, "the networks of this package are frozen; use lpips to train one"),
    "eval_mode": (False, "the heads of this package are frozen and have no dropout; use lpips to train them"),
}
# (image / FACTOR - CENTRE) has bytes in [-1, 1]
FACTOR, CENTRE = 127.5, 1.0


class LPIPS(nn.Module):
    """`lpips.LPIPS` on this package's LPIPS; `damlpips.LPIPS` has the equation.

    Equal to `lpips` 0.1.4 on the same weights, and faster, but for this: gradients stay finite at features that are
    zero, nothing is in its `parameters()` or `state_dict()`, and it has no dropout, in training mode either.

    Args:
        pretrained: True; False needs `model_path` or `lpips=False`.
        net: `"alex"`, `"vgg"`, `"vgg16"` or `"squeeze"`.
        version: of the heads, `"0.1"` or `"0.0"`.
        lpips: whether channels are weighted by the heads; False adds them up.
        spatial: whether the result is a map.
        pnet_rand, pnet_tune: False.
        use_dropout: without effect. With False `lpips` finds no heads in its files and leaves them random.
        model_path: a file of heads with the keys of `lpips`, `lin0.model.1.weight`, ...
        eval_mode: True; False only with `use_dropout=False`, where it says the same.
        verbose: whether to print what was built.

    Raises:
        ValueError: what cannot be had here, or is not known. WeightsError: a file that is missing or damaged.

    Example:
        >>> import torch
        >>> from damlpips.adapters.lpips import LPIPS
        >>> LPIPS(net="alex", pnet_tune=True)
        Traceback (most recent call last):
        ValueError: pnet_tune=True: the networks of this package are frozen; use lpips to train one
    """

    def __init__(
        self,
        pretrained: bool = True,
        net: str = "alex",
        version: str = "0.1",
        lpips: bool = True,
        spatial: bool = False,
        pnet_rand: bool = False,
        pnet_tune: bool = False,
        use_dropout: bool = True,
        model_path: Any = None,
        eval_mode: bool = True,
        verbose: bool = True,
    ) -> None:
        super().__init__()
        given = {
            "pretrained": pretrained or not lpips or model_path is not None,
            "pnet_rand": pnet_rand,
            "pnet_tune": pnet_tune,
            "eval_mode": eval_mode or not use_dropout,
        }
        for name, (refused, why) in REFUSED.items():
            if bool(given[name]) is refused:
                raise ValueError(f"{name}={refused}: {why}")
        backbone = NETS[checks.one_of("net", net, NETS)]
        checks.one_of("version", version, VERSIONS)
        heads = "uniform" if not lpips else VERSIONS[version] if model_path is None else model_path
        if version == "0.0" and heads != "v0.0":
            raise ValueError("version='0.0': feeds images without scaling, which goes with its own heads only here")
        self.model = LPIPSModule(
            backbone, heads=heads, value_range=(-1.0, 1.0), grey="repeat", check_values=False, reduction="none"
        )
        self.pnet_type, self.version, self.lpips, self.spatial = net, version, lpips, spatial
        if verbose:
            print(f"Setting up {self.describe()}, spatial {'on' if spatial else 'off'}")

    def forward(
        self, in0: Tensor, in1: Tensor, retPerLayer: bool = False, normalize: bool = False
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Return the distance of each pair, (N, 1, 1, 1), or with `spatial` where they differ, (N, 1, H, W).

        Args:
            in0, in1: (N, 3, H, W) or (N, 1, H, W), floats in [-1, 1]; one image in either place stands in for N,
                also without a batch, (3, H, W).
            retPerLayer: also return what each layer adds: a list of tensors of that shape.
            normalize: the images are in [0, 1].

        Raises:
            TypeError, ValueError: images that are no floats, or do not fit together.
        """
        x, y = self._as_batches(in0, in1)
        if normalize:
            x, y = 2 * x - 1, 2 * y - 1
        layers = self._maps(x, y) if self.spatial else [s[:, None, None, None] for s in self.model.per_layer(x, y).T]
        total = torch.stack(layers).sum(0)
        return (total, layers) if retPerLayer else total

    def _as_batches(self, in0: Any, in1: Any) -> tuple[Tensor, Tensor]:
        for name, images in (("in0", in0), ("in1", in1)):
            if not isinstance(images, Tensor) or not images.is_floating_point():
                found = images.dtype if isinstance(images, Tensor) else type(images).__name__
                raise TypeError(f"{name}: expected a tensor of floats in [-1, 1], got {found}")
        in0, in1 = (v[None] if v.ndim == 3 else v for v in (in0, in1))
        n = max(len(in0), len(in1))
        x, y = (v.expand(n, -1, -1, -1) if v.ndim == 4 and len(v) == 1 else v for v in (in0, in1))
        return x, y

    def _maps(self, x: Images, y: Images) -> list[Tensor]:
        a, b = self.model.compare(x, y)
        return [distance.upsample(d, a.size) for d in self.model.definition.maps(a.features, b.features)]

    def describe(self) -> str:
        """Return one line to cite, as the module's."""
        return self.model.describe()


def load_image(path: Any) -> Any:
    """Return an image file as an array of bytes, (H, W, 3), its colours as they are stored."""
    from damlpips.scoring.images import read_image  # needs Pillow

    return read_image(path, colour="ignore").permute(1, 2, 0).numpy()


def im2tensor(image: Any, imtype: Any = None, cent: float = CENTRE, factor: float = FACTOR) -> Tensor:
    """Return an array of bytes, (H, W, 3), as an image (1, 3, H, W) in [-1, 1]; `imtype` has no effect, as there."""
    return torch.as_tensor(image / factor - cent, dtype=torch.float32).permute(2, 0, 1)[None].contiguous()


def tensor2im(image_tensor: Tensor, imtype: Any = "uint8", cent: float = CENTRE, factor: float = FACTOR) -> Any:
    """Return the first of some images in [-1, 1], (N, 3, H, W), as an array of bytes, (H, W, 3)."""
    image = image_tensor[0].detach().cpu().float().permute(1, 2, 0).numpy()
    return ((image + cent) * factor).astype(imtype)
