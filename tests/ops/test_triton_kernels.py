"""The distances of a layer by Triton's kernels: on a CUDA device, compiled for one, and interpreted on a CPU."""

import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings

from damlpips import DAMLPIPS, LPIPS
from damlpips.ops import blockwise, distance, fused
from tests.support import reference
from tests.support.features import Case, cases, check, direct, laid_out
from tests.support.interpreted import DEVICE, INTERPRETED, interpret, marked


@pytest.fixture(autouse=True)
def _by_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send tensors on the CPU through the kernels, too, where these are interpreted."""
    if INTERPRETED:
        from damlpips.ops import triton_kernels

        monkeypatch.setattr(
            fused, "_implementation", lambda a, b: triton_kernels if triton_kernels.fit(a, b) else blockwise
        )


@pytest.mark.skipif(INTERPRETED, reason="this is that process")
def test_in_the_interpreter() -> None:
    interpret(__file__, "values", len(CASES))


# --- values and gradients -------------------------------------------------------------------------------------------


def case(
    *shape: int,
    dtype: str = "float32",
    layouts: tuple[str, str] = ("contiguous",) * 2,
    weighing: str = "default",
    **options: bool,
) -> Case:
    options = {"dead": False, "equal": False, "head": True, **options}
    return Case(shape, dtype, layouts, 1.0, **options, weighing=weighing, seed=0)


LAST = ("channels last",) * 2
CASES = {
    "one tile": case(2, 3, 5, 4),
    "tiles that are not full": case(1, 37, 9, 8, head=False),
    "many blocks": case(1, 5, 23, 11, layouts=LAST, weighing="places"),
    "channels last in bfloat16": case(2, 33, 5, 7, dtype="bfloat16", layouts=LAST),
    "float16": case(1, 70, 1, 3, dtype="float16", weighing="channels"),
    "one column": case(2, 16, 7, 1, layouts=("channels last", "contiguous")),
    "2048 channels": case(1, 2048, 2, 2, dtype="bfloat16", layouts=LAST),
    "cut out": case(2, 6, 3, 4, layouts=("cut out",) * 2),
    "no common stride of places": case(1, 6, 3, 4, layouts=("every second", "contiguous")),
    "dead features": case(3, 5, 4, 3, dead=True),
    "dead and equal features": case(3, 5, 4, 3, dead=True, equal=True),
    "equal features, channels last": case(2, 40, 4, 3, layouts=LAST, equal=True),
    "image": case(2, 3, 6, 5, weighing="image", layouts=("contiguous", "channels last")),
    "float64, which is not for kernels": case(1, 3, 4, 3, dtype="float64"),
}


@marked
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name: str) -> None:
    check(CASES[name], DEVICE)


@marked
@settings(max_examples=10 if INTERPRETED else 100)
@given(cases(dtypes=("float32", "bfloat16", "float16"), channels=40, sides=9))
def test_values_and_gradients_of_drawn_features(case: Case) -> None:
    check(case, DEVICE)


@marked
@pytest.mark.parametrize("needed", [0, 1])
def test_values_of_a_gradient_for_one_input_alone(needed: int) -> None:
    maps = [x.to(DEVICE).requires_grad_() for x in case(2, 5, 4, 3).pair()]
    fixed = [x if k == needed else x.detach() for k, x in enumerate(maps)]
    both, alone = (torch.stack(direct(case(2, 5, 4, 3), *pair)).sum() for pair in (maps, fixed))
    assert torch.equal(torch.autograd.grad(alone, maps[needed])[0], torch.autograd.grad(both, maps)[needed])


@marked
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_values_do_not_depend_on_the_rest_of_the_batch_but_for_their_layout(layout: str) -> None:
    """Every sum has a fixed order: a second run gives the same bits. Gradients have the layout of the features."""
    a, b = (laid_out(x, layout).to(DEVICE).requires_grad_() for x in case(2, 33, 5, 6).pair())
    once, again = (torch.stack(direct(case(2, 33, 5, 6), a, b)) for _ in range(2))
    assert torch.equal(once, again)
    for one, other in zip(*(torch.autograd.grad(found.sum(), (a, b)) for found in (once, again)), strict=True):
        assert torch.equal(one, other)
        assert one.stride() == a.stride()


# --- when kernels are used ------------------------------------------------------------------------------------------

CUDA_FEATURES = SimpleNamespace(device=torch.device("cuda"))


@pytest.mark.skipif(INTERPRETED, reason="kernels are taken everywhere")
def test_kernels_are_taken_on_cuda_where_they_run_and_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = CUDA_FEATURES, CUDA_FEATURES
    monkeypatch.setattr(fused, "_kernels", lambda device: None)
    assert fused._implementation(*pair) is blockwise
    for fits in (True, False):
        kernels = SimpleNamespace(fit=lambda a, b, fits=fits: fits)
        monkeypatch.setattr(fused, "_kernels", lambda device, kernels=kernels: kernels)
        assert fused._implementation(*pair) is (kernels if fits else blockwise)
        assert fused._implementation(torch.rand(1), torch.rand(1)) is blockwise
    monkeypatch.setattr(fused, "_kernels", lambda device: SimpleNamespace(fit=lambda a, b: True))
    monkeypatch.setenv("DAMLPIPS_KERNELS", "off")
    assert fused._implementation(*pair) is blockwise


def test_what_fits() -> None:
    pytest.importorskip("triton")
    from damlpips.ops.triton_kernels import fit

    def meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    fitting = meta(2, 3, 4, 5)
    assert fit(fitting, fitting.bfloat16())
    assert fit(meta(2**16 - 1, 1, 1, 1), meta(2**16 - 1, 1, 1, 1))
    for other in (
        fitting.double(),
        fitting.int(),
        meta(0, 3, 4, 5),
        meta(2**16, 1, 1, 1),
        meta(1, 2**11, 2**10, 2**10),
    ):
        assert not fit(other, other)
        assert not fit(fitting, other) or len(other) == 2**16


@pytest.mark.skipif(INTERPRETED, reason="the interpreter runs anywhere")
def test_where_triton_cannot_run_scores_go_on_without_it() -> None:
    pytest.importorskip("triton")
    with pytest.warns(RuntimeWarning, match=r"Triton cannot run its kernels on cpu .*DAMLPIPS_KERNELS=off"):
        assert fused._kernels.__wrapped__(torch.device("cpu")) is None


def test_without_triton_nobody_warns(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    monkeypatch.setitem(sys.modules, "damlpips.ops.triton_kernels", None)  # as if it could not be imported
    monkeypatch.delattr("damlpips.ops.triton_kernels", raising=False)
    assert fused._kernels.__wrapped__(torch.device("cpu")) is None
    assert not recwarn.list


# --- in the modules, on a device ------------------------------------------------------------------------------------

# The functions of `blockwise` that the kernels stand for.
KERNELS = ("lpips", "lpips_gradients", "statistics", "differences", "channel_differences", "gradients")

MODULES = {
    "damlpips": lambda **options: DAMLPIPS(**options),
    "lpips": lambda **options: LPIPS("nano", heads="uniform", **options),
}


@pytest.mark.cuda
@pytest.mark.skipif(INTERPRETED, reason="compiled kernels only")
@pytest.mark.parametrize("kind", MODULES)
class TestOnCuda:
    def test_scores_and_gradients_are_those_without_kernels(self, kind: str, monkeypatch) -> None:
        metric = MODULES[kind]().cuda()
        x, y = (t.cuda() for t in reference.noise(3, 96, 80))
        x.requires_grad_()
        found = metric(x, y)
        (gradient,) = torch.autograd.grad(found.sum(), x)
        monkeypatch.setenv("DAMLPIPS_KERNELS", "off")
        expected = metric(x, y)
        reference.rounded(found, expected)
        (other,) = torch.autograd.grad(expected.sum(), x)
        # float32 sums in another order, through a network; relative to the largest gradient
        assert (gradient - other).abs().max() <= 1e-4 * other.abs().max()

    def test_the_kernels_are_what_ran(self, kind: str, monkeypatch) -> None:
        metric = MODULES[kind]().cuda()
        x, y = (t.cuda() for t in reference.noise(1, 64, 64))

        def refuse(*_: object) -> None:
            raise AssertionError("the passes without kernels ran")

        for name in KERNELS:
            monkeypatch.setattr(blockwise, name, refuse)
        x.requires_grad_()
        metric(x, y).sum().backward()
        assert torch.isfinite(x.grad).all()

    def test_nothing_waits_for_the_device(self, kind: str) -> None:
        metric = MODULES[kind]().cuda()
        x, y = (t.cuda() for t in reference.noise(2, 64, 64))
        x.requires_grad_()
        metric(x, y).sum().backward()  # compiles
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            metric(x, y).sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert torch.isfinite(x.grad).all()

    def test_a_pair_scores_the_same_in_any_batch(self, kind: str) -> None:
        metric = MODULES[kind](deterministic=True).cuda()
        x, y = (t.cuda() for t in reference.noise(4, 64, 64))
        scores = metric(x, y)
        for part in ([0], [1, 2], [3, 1, 0]):
            assert torch.equal(metric(x[part], y[part]), scores[part])

    def test_heads_take_less_memory_than_the_plain_functions(self, kind: str) -> None:
        a, b = (torch.rand(2, 64, 256, 256, device="cuda").requires_grad_() for _ in range(2))

        weighing = distance.Adaptive(0.25, 0.5)
        plain, direct = {
            "lpips": (
                lambda: distance.pool(distance.lpips_map(a, b, None)),
                lambda: fused.lpips_distance(a, b, None),
            ),
            "damlpips": (
                lambda: distance.compare(a, b, weighing).structure,
                lambda: fused.damlpips_distances(a, b, weighing).structure,
            ),
        }[kind]

        def peak(distances) -> int:
            torch.autograd.grad(distances().sum(), (a, b))
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            torch.autograd.grad(distances().sum(), (a, b))
            return torch.cuda.max_memory_allocated() - before

        # both gradients, maps and partial sums
        assert peak(direct) <= 1.3 * (a.nbytes + b.nbytes) < peak(plain)
