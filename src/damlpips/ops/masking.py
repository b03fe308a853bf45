"""Differences of images where there is little to hide them, with little memory: the graph keeps hardly more than both.

As in `fused`, the gradients are derived by hand, and the plain function is used where each operation must be seen.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from damlpips.checks import is_optimised
from damlpips.ops.coverage import box
from damlpips.ops.execution import BLOCK, batches, is_transformed, on_cpu
from damlpips.ops.fused import image_kernels

# The contrast of a place, in squared units of Oklab over a window of so many places, hides differences from where it
# exceeds the floor.
MASKING_WINDOW, MASKING_FLOOR = 5, 1e-3
# The distance of a place is below this: beyond it, one difference is as much of another picture as any.
MOST = 20.0

COLOURS = 3
WINDOW_PLACES = MASKING_WINDOW**2


def masked_map(a: Float[Tensor, "n c h w"], b: Float[Tensor, "n c h w"]) -> tuple[Tensor, Tensor]:
    """Compare images in uniform colours where there is little to hide differences.

    ::

        D_p = sum_c (a_cp - b_cp)^2,  g_p = sqrt((v_ap + 0.001) (v_bp + 0.001))
        place_p = 1 / (g_p + D_p / 20),   d_p = place_p D_p

    with v_ap, v_bp the variances of the images in a window of 5 x 5 around p, summed over colours.

    Returns:
        d and place, (N, 1, H, W) each.
    """
    if a.dtype != b.dtype or a.shape != b.shape:
        return plain_masked_map(a, b)
    kernels = image_kernels(a, b) if a.shape[1] == COLOURS and a.dtype == torch.float32 else None
    if kernels is None and not (on_cpu(a) and on_cpu(b)):
        return plain_masked_map(a, b)
    if not (is_optimised(a) or is_optimised(b)):
        return _Masked.forward(a, b) if kernels is None else kernels.masked_map(a, b)[:2]
    # a graph cannot keep what was made in inference mode
    a, b = (x.clone() if x.is_inference() else x for x in (a, b))
    found: tuple[Tensor, Tensor] = _Masked.apply(a, b) if kernels is None else _MaskedByKernels.apply(a, b, kernels)
    return found


def plain_masked_map(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return `masked_map`, in operations that can be followed."""
    return compared(a, b, contrast(a), contrast(b))


def compared(a: Tensor, b: Tensor, of_a: Tensor, of_b: Tensor) -> tuple[Tensor, Tensor]:
    """Do what `masked_map` does, with contrasts that are known."""
    square = (a - b).square().sum(1, keepdim=True)
    place = 1 / (((of_a + MASKING_FLOOR) * (of_b + MASKING_FLOOR)).sqrt() + square / MOST)
    return place * square, place


def contrast(a: Float[Tensor, "n c h w"], mask: Float[Tensor, "n 1 h w"] | None = None) -> Float[Tensor, "n 1 h w"]:
    """Return the variance of an image in a window around each pixel, summed over colours; of what a mask covers."""
    return box((a - box(a, MASKING_WINDOW, mask)).square().sum(1, keepdim=True), MASKING_WINDOW, mask)


class _MaskedByKernels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, kernels: Any) -> tuple[Tensor, Tensor]:
        d, place, contrasts = kernels.masked_map(a, b)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(a, b, contrasts)
        ctx.kernels = kernels
        return d, place

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        a, b, contrasts = ctx.saved_tensors
        needed = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():  # for second derivatives
            return *_plain_gradients(a, b, gradients, needed), None
        return *ctx.kernels.masked_gradients(a, b, contrasts, *gradients, needed), None


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        d, place = (a.new_empty(len(a), 1, *a.shape[2:]) for _ in range(2))
        for part in _parts(a):
            x, y, difference, weight = a[part], b[part], d[part, 0], place[part, 0]
            windows = _Windows(x)
            of_x, of_y = (windows.raised_contrast(map(windows.apart, images.unbind(1))) for images in (x, y))
            torch.mul(of_x, of_y, out=weight).sqrt_()
            for k, (one, other) in enumerate(zip(x.unbind(1), y.unbind(1), strict=True)):
                _add_square(difference, torch.sub(one, other, out=windows.scratch), first=k == 0)
            weight.add_(difference, alpha=1 / MOST).reciprocal_()
            difference.mul_(weight)
        return d, place

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, *output)

    @staticmethod
    def backward(ctx: Any, by_d: Tensor | None, by_place: Tensor | None) -> Any:
        """Return the gradients of a loss L.

        With q = 2 dL / dv_a through the mean of the window, that of a is q (a - mean a) less the same through the mean,
        and 2 (a - b) dL / dD.
        """
        a, b, d, place = ctx.saved_tensors
        outputs, needed = (by_d, by_place), ctx.needs_input_grad
        given = [by for by in outputs if by is not None]
        if not given:
            return None, None
        if torch.is_grad_enabled() or any(map(is_transformed, given)):
            return _plain_gradients(a, b, outputs, needed)
        found = [
            torch.empty_like(x, memory_format=torch.contiguous_format) if wanted else None
            for x, wanted in zip((a, b), needed, strict=True)
        ]
        by_d = torch.zeros_like(d) if by_d is None else by_d
        # of the divisor, g + D / MOST
        by_divisor = -place * (d * by_d if by_place is None else torch.addcmul(d * by_d, place, by_place))
        by_difference = 2 * torch.addcmul(by_divisor / MOST, place, by_d)
        # of g, times g: divided by a variance and the floor, it is twice that of the variance
        by_either = by_divisor.mul_((1 - d / MOST).div_(place))
        for part in _parts(a):
            windows = _Windows(a[part])
            by_deviation = torch.empty_like(windows.scratch)
            for images, others, whole in ((a[part], b[part], found[0]), (b[part], a[part], found[1])):
                if whole is not None:
                    deviations = [windows.apart(colour).clone() for colour in images.unbind(1)]
                    torch.div(by_either[part, 0], windows.raised_contrast(deviations), out=by_deviation)
                    windows.box_adjoint(by_deviation, out=by_deviation)
                    colours = (m.unbind(1) for m in (images, others, whole[part]))
                    for one, another, own, deviation in zip(*colours, deviations, strict=True):
                        windows.box_adjoint(deviation.mul_(by_deviation), out=own)
                        torch.sub(deviation, own, out=own)
                        own.addcmul_(torch.sub(one, another, out=windows.scratch), by_difference[part, 0])
        return tuple(found)


def _plain_gradients(a: Tensor, b: Tensor, by: Sequence[Tensor | None], needed: Sequence[bool]) -> tuple[Any, ...]:
    """Return gradients that can be differentiated again."""
    with torch.enable_grad():
        # views: where b was computed from a, the gradient of a must not include the path through b
        images = [x.view_as(x) for x in (a, b)]
        outputs = [(m, g) for m, g in zip(plain_masked_map(*images), by, strict=True) if g is not None]
        wanted = [x for x, want in zip(images, needed, strict=True) if want]
        found = iter(torch.autograd.grad([m for m, _ in outputs], wanted, [g for _, g in outputs], create_graph=True))
    return tuple(next(found) if want else None for want in needed)


def _parts(a: Tensor) -> Iterator[slice]:
    """Yield the images that are worked on at once.

    One colour at a time of one for each thread: a core's cache holds it with all that is made of it.
    """
    return batches(a, max(1, BLOCK // 4 * torch.get_num_threads() // a[0, 0].numel()))


class _Windows:
    """`box` of some images' maps (N, H, W), and what is made with it, in memory that is used again for the next."""

    def __init__(self, like: Tensor) -> None:
        n, _, h, w = like.shape
        self.size, self.margin = (h, w), MASKING_WINDOW // 2
        m = self.margin
        self.scratch = like.new_empty(n, h, w)
        self._tall, self._wide = like.new_empty(n, h + 2 * m, w), like.new_empty(n, h, w + 2 * m)
        self._pairs_of_rows, self._pairs_of_columns = like.new_empty(n, h + 3, w), like.new_empty(n, h, w + 3)
        self._zeros_around = like.new_zeros(n, h + 4 * m, w)
        self._zeros_beside = like.new_zeros(n, h, w + 4 * m)
        self._summed = like.new_empty(n, h + 2 * m, w), like.new_empty(n, h, w + 2 * m)

    def raised_contrast(self, deviations: Iterable[Tensor]) -> Tensor:
        """Return `contrast` of an image, and the floor, from what `apart` returns for each colour."""
        total = torch.empty_like(self.scratch)
        for k, deviation in enumerate(deviations):
            _add_square(total, deviation, first=k == 0)
        return self.box_sum(total, out=total).mul_(1 / WINDOW_PLACES).add_(MASKING_FLOOR)

    def apart(self, colour: Tensor) -> Tensor:
        """Write the deviation from the mean of the window to `scratch`."""
        total = self.box_sum(colour, out=self.scratch)
        return torch.sub(colour, total, alpha=1 / WINDOW_PLACES, out=self.scratch)

    def box_sum(self, x: Tensor, out: Tensor) -> Tensor:
        """Return `windows.box` of x, which may be `out`, times the places of a window."""
        m, (h, w) = self.margin, self.size
        self._tall[:, m : m + h] = x
        self._tall[:, :m], self._tall[:, m + h :] = x[:, :1], x[:, -1:]
        inner = self._wide[..., m : m + w]
        # two rows at a time, then two of those; and columns likewise
        _five(self._tall, 1, self._pairs_of_rows, inner)
        self._wide[..., :m], self._wide[..., m + w :] = inner[..., :1], inner[..., -1:]
        return _five(self._wide, 2, self._pairs_of_columns, out)

    def box_adjoint(self, x: Tensor, out: Tensor) -> Tensor:
        """Apply the transpose of `box`: what goes to beyond the edge goes to the edge."""
        m, (h, w) = self.margin, self.size
        tall, wide = self._summed
        self._zeros_beside[..., 2 * m : 2 * m + w] = x
        _sum((self._zeros_beside[..., i : i + w + 2 * m] for i in range(MASKING_WINDOW)), wide)
        wide[..., m] += wide[..., :m].sum(-1)
        wide[..., m + w - 1] += wide[..., m + w :].sum(-1)
        self._zeros_around[:, 2 * m : 2 * m + h] = wide[..., m : m + w]
        _sum((self._zeros_around[:, i : i + h + 2 * m] for i in range(MASKING_WINDOW)), tall)
        tall[:, m] += tall[:, :m].sum(1)
        tall[:, m + h - 1] += tall[:, m + h :].sum(1)
        return torch.mul(tall[:, m : m + h], 1 / WINDOW_PLACES, out=out)


def _add_square(total: Tensor, x: Tensor, *, first: bool) -> None:
    if first:
        torch.mul(x, x, out=total)
    else:
        total.addcmul_(x, x)


def _five(x: Tensor, dim: int, pairs: Tensor, out: Tensor) -> Tensor:
    """Add up every five places in a row, by way of their pairs."""
    torch.add(x.narrow(dim, 0, pairs.shape[dim]), x.narrow(dim, 1, pairs.shape[dim]), out=pairs)
    size = out.shape[dim]
    torch.add(pairs.narrow(dim, 0, size), pairs.narrow(dim, 2, size), out=out)
    return out.add_(x.narrow(dim, 4, size))


def _sum(parts: Iterator[Tensor], out: Tensor) -> Tensor:
    torch.add(next(parts), next(parts), out=out)
    for part in parts:
        out.add_(part)
    return out
