"""The tests that pyiqa has for every metric, by contract, on this package's, and what its maintainer would be sent.

The tests are those of `tests/test_metric_general.py` in pyiqa 0.1.16. Left out is the comparison with official results:
pyiqa keeps none of DAMLPIPS. What would be sent is applied to a copy of the installed pyiqa.
"""

import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import damlpips
from damlpips.models.registry import in_libraries
from tests.support import reference

pyiqa = pytest.importorskip("pyiqa")

ROOT = Path(__file__).resolve().parents[2]
SENT = ROOT / "docs/upstream/pyiqa"
FILES = [str(ROOT / "docs/demo/landscape/blur_1.5.png"), str(ROOT / "docs/demo/landscape.png")]
# the size of pyiqa's own tests for what is embedded; a smaller one for torchvision's networks, whose passes take long
SIZES = {"nano": 224}
SMALLER = 64


@pytest.fixture(scope="module", autouse=True)
def _registered() -> None:
    damlpips.register("pyiqa")


class Named:
    """A metric by its name, with random weights where its network has some of ImageNet's."""

    def __init__(self, name: str, random_weights: Callable[[str], Path]) -> None:
        self.name, backbone = name, in_libraries()[name].options["backbone"]
        self.size = SIZES.get(backbone, SMALLER)
        model = reference.TORCHVISION.get(backbone)
        self.options = {"weights": random_weights(model)} if model else {}

    def create(self, device: str = "cpu", **options: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pyiqa.create_metric(self.name, device=torch.device(device), **self.options, **options)

    def pair(self, draw: Callable[..., Tensor] = torch.rand, n: int = 2) -> tuple[Tensor, Tensor]:
        x, y = draw(2, n, 3, self.size, self.size)
        return x, y


@pytest.fixture(scope="module", params=in_libraries())
def named(request: pytest.FixtureRequest, random_weights: Callable[[str], Path]) -> Named:
    return Named(request.param, random_weights)


def test_forward(named: Named) -> None:
    score = named.create().eval()(*named.pair())
    assert (score.shape, score.requires_grad) == ((2, 1), False)
    assert score.isfinite().all()


def test_forward_of_files(named: Named) -> None:
    """Both files are read and scored as their tensors are."""
    metric = named.create(**({} if named.size == SIZES["nano"] else {"resize": SMALLER}))
    tensors = [pyiqa.utils.img_util.imread2tensor(file, rgb=True)[None] for file in FILES]
    assert torch.equal(metric(*FILES), metric(*tensors))
    assert metric(*FILES) > metric(FILES[1], FILES[1]) == 0


@pytest.mark.filterwarnings("ignore:.*scored as it is.*:UserWarning")
def test_gradient_backward(named: Named) -> None:
    """Images are normal noise, as pyiqa has it: a loss checks no range."""
    x, y = named.pair(torch.randn)
    x.requires_grad_()
    named.create(as_loss=True).eval()(x, y).sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.abs().sum() > 0


@pytest.mark.cuda
def test_cpu_gpu_consistency(named: Named) -> None:
    pair = named.pair(n=1)
    on_cpu, on_gpu = (
        named.create(device).eval()(*(images.to(device) for images in pair)) for device in ("cpu", "cuda")
    )
    torch.testing.assert_close(on_cpu, on_gpu.cpu(), atol=1e-2, rtol=1e-2)  # pyiqa's own tolerances


def test_as_loss(named: Named) -> None:
    """A loss has a gradient, no check of values, and a weight and a reduction; a metric has none of these."""
    x, y = named.pair()
    scores = named.create()(x, y)
    weight = torch.tensor([[1.0], [3.0]])
    weighted = weight * scores
    for reduction, expected in (("mean", weighted.sum() / weight.sum()), ("sum", weighted.sum()), ("none", weighted)):
        loss = named.create(as_loss=True, loss_reduction=reduction, loss_weight=weight)
        assert not loss.check_input_range
        value = loss(x.requires_grad_(), y)
        assert value.requires_grad
        torch.testing.assert_close(value, expected)
    metric = named.create()
    assert metric.check_input_range
    assert not metric(x, y).requires_grad


WRONG: dict[str, Callable[[Tensor], Any]] = {
    "three axes": lambda x: x[0],
    "two channels": lambda x: x[:, :2],
    "values above 1": lambda x: x + 0.5,
    "values below 0": lambda x: x - 0.5,
    "no reference": lambda x: None,
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_inputs_that_pyiqa_refuses(named: Named, wrong: Callable[[Tensor], Any]) -> None:
    x, y = named.pair()
    with pytest.raises(AssertionError):
        named.create()(x, wrong(y))


# --- what would be sent -----------------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return pyiqa's repository, as far as its wheel has it."""
    installed = Path(pyiqa.__file__).parent
    shutil.copytree(installed, tmp_path / "pyiqa", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "docs").mkdir()
    shutil.copy(installed.parent / "docs/ModelCard.md", tmp_path / "docs")
    return tmp_path


def apply(patch: str, folder: Path) -> None:
    ceiling = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    subprocess.run(["git", "apply", str(SENT / patch)], cwd=folder, check=True, env=ceiling)


def in_copy(folder: Path, code: str) -> list[str]:
    """Return what some code prints where pyiqa is that of the folder."""
    paths = os.pathsep.join(map(str, (folder, ROOT / "src")))
    done = subprocess.run(
        [sys.executable, "-W", "error:.*damlpips.*:RuntimeWarning", "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [line.removeprefix("> ") for line in done.stdout.splitlines() if line.startswith("> ")]


SCORED = """
import sys, pyiqa, torch
x = torch.linspace(0, 1, 3 * 64 * 64).view(1, 3, 64, 64)
def score(name):
    return float(pyiqa.create_metric(name, device=torch.device("cpu"))(x, x.flip(3)))
def say(*values):
    print(">", *values)
"""


def expected_score() -> float:
    x = torch.linspace(0, 1, 3 * 64 * 64).view(1, 3, 64, 64)
    return float(damlpips.DAMLPIPS()(x, x.flip(3)))


def test_entry_points_make_the_names_known(copy: Path) -> None:
    """Nobody has imported damlpips; without the patch the name is unknown, as tests/adapters/test_pyiqa.py shows."""
    apply("entry-points.patch", copy)
    code = """
say(pyiqa.__file__, 'damlpips' in sys.modules)
say(score('damlpips'))
from pyiqa.default_model_configs import DEFAULT_CONFIGS
from pyiqa.utils.registry import ARCH_REGISTRY
for name in list(DEFAULT_CONFIGS):  # as if this were the first call
    if name.startswith(('damlpips', 'lpips-fast')):
        del DEFAULT_CONFIGS[name]
ARCH_REGISTRY._entry_points_loaded = False
say(*pyiqa.list_models('FR', filter='*lpips*'))
"""
    where, found, listed = in_copy(copy, SCORED + code)
    assert where == f"{copy / 'pyiqa/__init__.py'} False"
    assert float(found) == pytest.approx(expected_score(), rel=1e-5)
    assert set(in_libraries()) < set(listed.split())


def test_an_architecture_of_its_own_works_beside_the_package(copy: Path) -> None:
    """The names are pyiqa's then; this package, imported later, adds the others without a warning."""
    shutil.copy(SENT / "pyiqa/archs/damlpips_arch.py", copy / "pyiqa/archs")
    apply("architecture.patch", copy)
    code = """
say('damlpips' in pyiqa.list_models('FR'), 'damlpips' in sys.modules)
say(score('damlpips'))
metric = pyiqa.create_metric('damlpips', as_loss=True, device=torch.device('cpu'), align=False)
say(type(metric.net).__module__, metric.net.net.model.align)
y = x.clone().requires_grad_()
metric(y, x.flip(3)).backward()
say(bool(y.grad.isfinite().all()))
import damlpips
say('lpips-fast' in pyiqa.list_models('FR'), len(damlpips.register('pyiqa')))
say(type(pyiqa.create_metric('damlpips', device=torch.device('cpu')).net).__module__)
for name in list(sys.modules):
    if name.partition('.')[0] == 'damlpips':
        del sys.modules[name]
class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name == 'damlpips':
            raise ModuleNotFoundError("No module named 'damlpips'", name=name)
sys.meta_path.insert(0, NotInstalled())
try:
    pyiqa.create_metric('damlpips', device=torch.device('cpu'))
except ModuleNotFoundError as error:
    say(error)
"""
    known, found, network, finite, others, again, missing = in_copy(copy, SCORED + code)
    assert known == "True False"
    assert float(found) == pytest.approx(expected_score(), rel=1e-5)
    assert network == "pyiqa.archs.damlpips_arch False"
    assert (finite, others, again) == ("True", f"True {len(in_libraries())}", "pyiqa.archs.damlpips_arch")
    assert missing == "The metric damlpips needs the package damlpips: pip install damlpips"


def test_the_model_card_lists_the_names_of_the_table(copy: Path) -> None:
    before = (copy / "docs/ModelCard.md").read_text().splitlines()
    apply("architecture.patch", copy)
    added = [line for line in (copy / "docs/ModelCard.md").read_text().splitlines() if line not in before]
    configured = re.findall(r"^\+        '(damlpips[\w-]*)'", (SENT / "architecture.patch").read_text(), re.M)
    assert [re.findall(r"`(damlpips[\w-]*)`", line) for line in added] == [configured]
    assert configured == [name for name in in_libraries() if name.startswith("damlpips")]
