"""Modules as programs for elsewhere: torch.export and ONNX, with batches and sizes that were not seen at export."""

import logging
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from damlpips import DAMLPIPS, LPIPS
from tests.support import reference

# other batches and sizes than at export, one image, odd sides
SIZES = ((3, 64, 64), (1, 129, 83))


@pytest.fixture(params=["nano, at a viewing side", "uniform nano", "squeeze", "alex"])
def module(request: pytest.FixtureRequest) -> nn.Module:
    if request.param == "nano, at a viewing side":
        return DAMLPIPS(align=False)  # with a field an export takes a minute: the page's is enough
    if request.param == "uniform nano":
        return LPIPS("nano", heads="uniform")
    return LPIPS(request.param, weights=request.getfixturevalue(f"random_{request.param}_weights"))


@pytest.fixture(autouse=True)
def _untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch describe each of its guards, with a stack, to nobody: pytest listens to every log."""
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "handlers", [])


def free(multiple: int = 1) -> dict[int, Dim]:
    height, width = (multiple * Dim(name, min=64 // multiple, max=256 // multiple) for name in "hw")
    return {0: Dim("n", min=1, max=64), 2: height, 3: width}


def pairs() -> list[tuple[Tensor, Tensor]]:
    return [reference.noise(n, height, width) for n, height, width in SIZES]


def test_exported_program(module: nn.Module) -> None:
    # SqueezeNet's pooling rounds sizes up: a branch, which torch.export does not leave open
    multiple = 16 if module.source.name == "squeeze" else 1
    sizes = free(multiple)
    program = torch.export.export(module.eval(), reference.noise(2, 96, 80), dynamic_shapes=(sizes, sizes)).module()
    for x, y in ((x, y) for x, y in pairs() if x.shape[2] % multiple == 0):
        # the same operations
        torch.testing.assert_close(program(x, y), module(x, y), rtol=1e-6, atol=0)


def test_onnx(module: nn.Module, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    example, sizes = reference.noise(2, 96, 80), free()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names of dimensions that are said twice
        torch.onnx.export(
            module.eval(),
            example,
            tmp_path / "metric.onnx",
            dynamo=True,
            dynamic_shapes=(sizes, sizes),
            input_names=["x", "y"],
            external_data=False,
            verbose=False,
        )
    session = runtime.InferenceSession(tmp_path / "metric.onnx")
    for x, y in pairs():
        (scores,) = session.run(None, {"x": x.numpy(), "y": y.numpy()})
        # other convolutions, which sum in another order
        torch.testing.assert_close(torch.from_numpy(scores), module(x, y), rtol=1e-5, atol=1e-6)


def test_damlpips_as_the_page_exports_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Its program, and what onnxruntime makes of its file, with other sizes than the page's, too."""
    runtime = pytest.importorskip("onnxruntime")
    page = Path(__file__).resolve().parents[2] / "docs/how-to/export.md"
    (block,) = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    names: dict[str, Any] = {}
    exec(block, names)
    metric, program, session = names["metric"], names["program"].module(), runtime.InferenceSession(names["file"])
    assert metric.definition.aligns
    for x, y in [*pairs(), (names["x"], names["y"])]:
        torch.testing.assert_close(program(x, y), metric(x, y), rtol=1e-6, atol=0)
        (scores,) = session.run(None, {"x": x.numpy(), "y": y.numpy()})
        torch.testing.assert_close(torch.from_numpy(scores), metric(x, y), rtol=1e-5, atol=1e-6)


def test_a_program_of_one_size_scales_large_images_down() -> None:
    metric = DAMLPIPS()
    example = reference.noise(1, 300, 320)
    program = torch.export.export(metric.eval(), example).module()
    x, y = (image.flip(3) for image in example)
    torch.testing.assert_close(program(x, y), metric(x, y), rtol=1e-6, atol=0)
