"""What the tests share: the data folder, weights, images, and a process that sees nobody else's weights."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from tests.support import reference

# The images are small: on a busy machine threads that wait for each other cost more than they give.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start

# A run of the tests tries the same examples each time; `make fuzz` looks for new ones.
settings.register_profile("test", deadline=None, derandomize=True, max_examples=100)
settings.register_profile("fuzz", deadline=None, max_examples=3000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "test"))

REPOSITORY = Path(__file__).resolve().parents[1]
# Files that take half a minute or more: they start first, so that no process waits for the last of them.
LONG = {
    "adapters": ("test_pyiqa.py",),
    "cli": ("test_outputs.py",),
    "distributed": ("test_faults.py", "test_ranks.py"),
    "docs": ("test_examples.py",),
    "models": ("test_export.py", "test_losses.py", "test_runners.py", "test_tiling.py"),
    "nets": ("test_half.py",),
    "training": ("test_training.py",),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes long first, and leave the order else."""
    items.sort(key=lambda item: item.path.name not in LONG.get(item.path.parent.name, ()))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked `cuda` where there is no such device."""
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let no test see the user's folder of weights or torch hub's cache, or download."""

    def refuse(url: str, *_args: object, **_options: object) -> None:
        raise AssertionError(f"a test must not download {url}")

    monkeypatch.delenv("DAMLPIPS_WEIGHTS_DIR", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path_factory.getbasetemp() / "no-torch-home"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The data folder; the test is skipped where there is none."""
    folder = Path(os.environ.get("DAMLPIPS_SHARED") or REPOSITORY.parent / "shared").resolve()
    if not (folder / "weights").is_dir():
        pytest.skip(f"no data folder at {folder}: set DAMLPIPS_SHARED")
    return folder


@pytest.fixture(scope="session")
def alex_weights(shared: Path) -> Path:
    """AlexNet's ImageNet features."""
    return shared / "weights" / "alexnet_features.safetensors"


@pytest.fixture(scope="session")
def squeeze_weights(shared: Path) -> Path:
    """SqueezeNet's ImageNet features."""
    return shared / "weights" / "squeezenet1_1_features.safetensors"


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the file with the seeded random features of a torchvision model, `features.*` keys, made once."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("random-weights")

    def file(model: str) -> Path:
        path = folder / f"random_{model}.safetensors"
        if not path.exists():
            save_file({f"features.{k}": v for k, v in reference.random_state(model).items()}, path)
        return path

    return file


@pytest.fixture(scope="session")
def random_alex_weights(random_weights: Callable[[str], Path]) -> Path:
    return random_weights("alexnet")


@pytest.fixture(scope="session")
def random_squeeze_weights(random_weights: Callable[[str], Path]) -> Path:
    return random_weights("squeezenet1_1")


@pytest.fixture(scope="session")
def random_vgg_weights(random_weights: Callable[[str], Path]) -> Path:
    return random_weights("vgg16")


@pytest.fixture(scope="session")
def random_nano_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of random weights of the embedded backbone."""
    from safetensors.torch import save_file

    file = tmp_path_factory.mktemp("random-nano") / "random_nano.safetensors"
    save_file(reference.nano_state(), file)
    return file


@pytest.fixture(scope="module", params=reference.VARIANTS, ids=lambda v: f"{v[0]}-{'norm' if v[1] else 'raw'}")
def variant(request: pytest.FixtureRequest) -> dict[str, object]:
    """The options of one way to compare."""
    comparison, channel_norm = request.param
    return {"comparison": comparison, "channel_norm": channel_norm}


@pytest.fixture
def photographs(shared: Path) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return crops of photographs and the same with noise and a shift in brightness."""

    def pair(n: int = 2, height: int = 64, width: int = 64) -> tuple[Tensor, Tensor]:
        files = sorted((shared / "images").glob("bsds_*.jpg"))[:n]
        x = torch.cat([reference.read_image(file)[..., 40 : 40 + height, 40 : 40 + width] for file in files])
        return x, (0.9 * x + 0.08 * torch.randn_like(x)).clamp(0, 1)

    return pair
