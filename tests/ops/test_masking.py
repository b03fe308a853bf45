"""The gradients of the masked map, derived by hand, against those of the plain function."""

import pytest
import torch

from damlpips.ops.masking import masked_map, plain_masked_map


def _pair(n: int, c: int, h: int, w: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, n, c, h, w, generator=generator, dtype=torch.float64).unbind(0)
    return a.requires_grad_(), b.requires_grad_()


@pytest.mark.parametrize("size", [(2, 3, 16, 20), (1, 3, 5, 4), (3, 1, 1, 7), (1, 3, 1, 1), (1, 2, 2, 3)])
@pytest.mark.parametrize("outputs", [(0,), (1,), (0, 1)])
def test_values_and_gradients_are_those_of_the_plain_function(
    size: tuple[int, int, int, int], outputs: tuple[int, ...]
) -> None:
    pair = _pair(*size)
    found, plain = masked_map(*pair), plain_masked_map(*pair)
    weights = [torch.rand_like(m) for m in plain]
    gradients = [torch.autograd.grad(sum((m[k] * weights[k]).sum() for k in outputs), pair) for m in (found, plain)]
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("wanted", [0, 1])
def test_one_of_both_may_be_fixed(wanted: int) -> None:
    pair = list(_pair(2, 3, 9, 8))
    pair[1 - wanted] = pair[1 - wanted].detach()
    (found,), (plain,) = (
        torch.autograd.grad(f(*pair)[0].square().sum(), pair[wanted]) for f in (masked_map, plain_masked_map)
    )
    torch.testing.assert_close(found, plain)


def test_second_derivatives() -> None:
    pair = _pair(1, 2, 4, 5)
    assert torch.autograd.gradgradcheck(lambda a, b: masked_map(a, b)[0], pair)


def test_without_a_graph_the_values_are_the_same_and_swapping_changes_nothing() -> None:
    a, b = (m.detach().float() for m in _pair(2, 3, 30, 17))
    with torch.inference_mode():
        found, swapped = masked_map(a, b), masked_map(b, a)
    assert all(torch.equal(m, n) for m, n in zip(found, swapped, strict=True))
    torch.testing.assert_close(found, plain_masked_map(a, b), rtol=1e-5, atol=0)
    assert masked_map(a, a)[0].count_nonzero() == 0


def test_transforms_follow_the_plain_function() -> None:
    a, b = (m.detach() for m in _pair(2, 3, 6, 6))
    found = torch.func.grad(lambda x: masked_map(x, b)[0].sum())(a)
    leaf = a.clone().requires_grad_()
    masked_map(leaf, b)[0].sum().backward()
    torch.testing.assert_close(found, leaf.grad)
