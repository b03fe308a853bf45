"""DAMLPIPS: the pair itself decides how much each place, channel and layer counts."""

from collections.abc import Hashable

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import Unpack

from damlpips.models import alignment, inputs
from damlpips.models.adaptive import AdaptiveWeights, layers_of
from damlpips.models.base import PerceptualDistance
from damlpips.models.encoder import Images, Size
from damlpips.models.inputs import Pair
from damlpips.models.settings import DAMLPIPSOptions, DAMLPIPSSettings
from damlpips.models.version1 import Version1
from damlpips.models.version2 import IMAGE_REACH, Version2
from damlpips.nets.backbone import Backbone
from damlpips.nets.encoded import Encoded
from damlpips.nets.shared import Source
from damlpips.nets.table import DEFAULT_BACKBONE
from damlpips.ops import coverage, distance


class DAMLPIPS(PerceptualDistance):
    __doc__ = f"""Differentiable Adaptive Multi-Layer LPIPS; lower is closer, 0 for identical images.

    The pair itself decides how much each place, channel and layer counts; nothing is fitted to anyone's judgement. How
    far each place has moved from x to y, u_p, is found first, and x(p - u_p / 2) is compared with y(p + u_p / 2)::

        e_lp = (|a_lp|^2 + |b_lp|^2) / 2,  E_l = mean_p e_lp,  E_lc = mean_p (a_lcp^2 + b_lcp^2) / 2
        s_lp = rho e_lp + (1 - rho) E_l + eps
        g_lc = (mean_c E_lc / (E_lc + 0.001 mean_c E_lc))^gamma
        d_lp = sum_c g_lc (a_lcp - b_lcp)^2 / s_lp,  S_l = (mean_p d_lp^2)^(1/2)
        T_l  = sum_c g_lc [ (mean_p a_lcp - mean_p b_lcp)^2 + (std_p a_lcp - std_p b_lcp)^2 ] / (E_l + eps)
        D_0p = |a_0p - b_0p|^2,  v_ap, v_bp the variances of the images in 5 x 5 pixels around p
        d_0p = D_0p / (((v_ap + 0.001) (v_bp + 0.001))^(1/2) + D_0p / 20),  u(d) = log(1 + 5 d) / log 6
        S    = 0.45 [ 0.65 u(S_0) + 0.35 u(T_0) ] + sum_l 0.55 / L [ 0.9 u(S_l) + 0.1 u(T_l) ]
        e    = share [ (mean_p |u_p|^2)^(1/2) + strain / 2 ],  r = what alignment leaves of the difference in place
        D    = S (1 + 2 e) r / (r + 2 e) + 0.8 tanh(5 e) (1 - r)

    a, b are the feature maps at layer l, c counts channels, p places. Layer 0 is the image itself, in Oklab with three
    quarters of its mean colour taken off; in T_0, g = 1 and E is the energy of photographs. Displacements are in shares
    of the shorter side, the strain is that of the affine field nearest to u, and the share is 0 where u explains little
    of the difference: noise, blur and compression move nothing, and then D = S. Images whose shorter side is above 256
    pixels are averaged down to it first. Symmetric, non-negative, and differentiable everywhere, also where features
    are zero; gradients pass through S and e, while u, r and the share are held fixed.

    Version 1 compares place with place, with d_0p = D_0p / s, s the energy of photographs, u(d) = log(1 + 20 d) /
    log 21, and half of the weight on the image::

        D = sum_l w_l [ 0.8 u(S_l) + 0.2 u(T_l) ],  w_0 = 1/2, w_l = 1 / (2 L)

    Args:
        backbone: a name of the table (`"nano"`, embedded, needs no other file, with weights for each version) or a
            `Backbone`.
{DAMLPIPSSettings.documented()}

    Shapes:
        x, y: (N, 3, H, W), or what `encode` returned; the scores: (N,), float32 (float64 after `.double()`), about 1.3
        for unrelated photographs, in version 1 about 1.1. Of videos as for `LPIPS`. `per_layer` has the image, the
        network's layers, and what motion adds, (N, 2 + L); in version 1 no motion, (N, 1 + L).

    Raises:
        ValueError, TypeError: bad options or images. WeightsError: weights missing, damaged or of another network.

    Reference:
        The definition, its reasons and its agreement with observers are in the documentation, "What the scores are".

    Example:
        >>> import torch
        >>> from damlpips import DAMLPIPS
        >>> metric = DAMLPIPS()
        >>> x = torch.rand(2, 3, 64, 64)
        >>> metric(x, x)
        tensor([0., 0.])
        >>> bool((metric(x, x.flip(3)) > 0).all())
        True
    """

    options = DAMLPIPSSettings
    settings: DAMLPIPSSettings
    definition: Version1 | Version2

    def __init__(self, backbone: str | Backbone = DEFAULT_BACKBONE, **options: Unpack[DAMLPIPSOptions]) -> None:
        settings = self.options.make(dict(options))
        source = Source.of(backbone, settings.weights, settings.version)
        side, least = settings.viewing_side, source.min_size
        if side is not None and side < least:
            raise ValueError(
                f"viewing_side: expected None or at least {least} pixels, the least that backbone {source.name!r}"
                f" takes, got {side}"
            )
        reach = 0 if settings.version == 1 else IMAGE_REACH
        super().__init__(source, settings, viewing_side=side, image_reach=reach)

    def _defined(self) -> Version1 | Version2:
        weighing = distance.Adaptive(self.settings.rho, self.settings.gamma)
        return Version1(weighing) if self.settings.version == 1 else Version2(weighing, self.settings.align is None)

    def layers(self, x: Images) -> list[Tensor]:
        """Return what DAMLPIPS compares: (N, C_l, H_l, W_l), the image in adapted colours, then the feature maps.

        Version 2 compares those of the images that `aligned` returns.
        """
        return layers_of(x if isinstance(x, Encoded) else self.encode(x))

    def spatial_map(self, x: Images, y: Images, *, mask: Tensor | None = None) -> Float[Tensor, "n 1 h w"]:
        """Return where the images differ: (N, 1, H, W), whose mean is the score.

        Each layer's map, to the power that pools it, is enlarged bilinearly and scaled so that its mean is what the
        layer adds to the score. Version 2 maps the middle frame, p + u_p / 2 of the second image, and spreads what
        motion adds over the places in proportion to the square of their displacement. With a `mask` the mean over where
        it is True is the score, and elsewhere the map is 0; where something moves it is the mask in the middle frame.
        """
        return super().spatial_map(x, y, mask=mask)

    def weights_for(self, x: Images, y: Images, *, mask: Tensor | None = None) -> AdaptiveWeights:
        """Return the weights of place, channel and layer that the score of each pair was made with.

        They belong to the maps that `layers` returns, in version 2 of the images that `aligned` returns. Both are
        computed whole, also with `tile`. With a `mask` they are 0 at places that it does not cover.
        """
        return self.definition.weights(*self._middle(x, y, mask))

    def displacement(self, x: Images, y: Images, *, mask: Tensor | None = None) -> Float[Tensor, "n 2 h w"]:
        """Return how far each place has moved from x to y: (N, 2, H, W), right and down, in pixels.

        Of a place p of the middle frame, which is p - u_p / 2 in x and p + u_p / 2 in y, at the size at which the
        images are compared. Zero for pairs in which nothing moves. `displacement(y, x)` is its negative. With a `mask`
        it is that of what the mask covers, continued beyond it.

        Raises:
            ValueError: a metric that compares place with place: version 1, or `align=False`.
        """
        self._must_align("displacement")
        pair, seen = self._seen(x, y, mask)
        motion = alignment.found(*self._unit(seen), coverage.on_grid(pair.mask, seen[0]))
        if motion is None:
            return seen[0].new_zeros(len(pair), 2, *pair.size, dtype=self.encoder.exact_dtype)
        by = motion.field * motion.share[:, None, None, None]
        return F.interpolate(by, pair.size, mode="bilinear", align_corners=False) * min(pair.size)

    def aligned(self, x: Images, y: Images, *, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return both images as they are compared: in the middle frame, (N, 3, h, w) each, in `value_range`.

        Where nothing moves they are as they were; larger ones have been averaged down to `viewing_side`. With a `mask`
        both are continued from what it covers in both.

        Raises:
            ValueError: as `displacement`.
        """
        self._must_align("aligned")
        pair, seen = self._seen(x, y, mask)
        both = alignment.middle(*self._unit(seen), coverage.on_grid(pair.mask, seen[0]))
        if both is None:
            return self.encoder.floats(seen[0]), self.encoder.floats(seen[1])
        return alignment.in_range(self.encoder, both.x), alignment.in_range(self.encoder, both.y)

    def _seen(self, x: Images, y: Images, mask: Tensor | None) -> tuple[Pair, tuple[Tensor, Tensor]]:
        """Check a pair of batches; also return both as the network would see them in place."""
        pair = inputs.prepared(x, y, self.settings, self.encoder, mask)
        return pair, alignment.seen_pair(self.encoder, pair)

    def _unit(self, seen: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return alignment.unit(self.encoder, seen[0]), alignment.unit(self.encoder, seen[1])

    def _middle(self, x: Images, y: Images, mask: Tensor | None = None) -> alignment.Aligned:
        """Check a pair of batches and return it as it is compared."""
        return self._aligned(inputs.prepared(x, y, self.settings, self.encoder, mask))

    def _must_align(self, what: str) -> None:
        if not self.definition.aligns:
            why = "version=1" if self.settings.version == 1 else "align=False"
            raise ValueError(f"{what}: nothing is aligned with {why}: place is compared with place")

    def sharing_key(self, size: Size, *, keyed: bool = False) -> Hashable:
        """Return what two modules must agree in for the feature maps of one to serve the other."""
        key = super().sharing_key(size, keyed=keyed)
        # of references with keys version 1 keeps the colours in place of the pixels that others need
        return (key, "colours") if keyed and self.settings.version == 1 else key
