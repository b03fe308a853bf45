"""Backbones: the table against torchvision's networks, frozen for good, one instance for all, and a user's own."""

import copy
import gc
import pickle
import weakref
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torchvision.transforms.functional import normalize

from damlpips import DAMLPIPS, LPIPS, Backbone
from damlpips.nets.table import BACKBONES
from tests.support import reference
from tests.support.processes import python
from tests.support.reference import Tiny

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module", params=reference.TORCHVISION)
def row(request):
    """A row's name, a backbone with random weights, and torchvision's network with the same."""
    name, model = request.param, reference.TORCHVISION[request.param]
    state = reference.random_state(model)
    backbone = Backbone.from_table(name, {BACKBONES[name].prefix + k: v for k, v in state.items()})
    return name, backbone, reference.loaded_features(model, state)


def hooked(network: nn.Module, layers: tuple[str, ...], x: torch.Tensor) -> list[torch.Tensor]:
    """Return what `layers` put out when the whole network runs, in the order in which they run."""
    maps = []
    # copies: a later layer may work in place
    handles = [
        dict(network.named_children())[layer].register_forward_hook(lambda _m, _i, out: maps.append(out.clone()))
        for layer in layers
    ]
    network(x)
    for handle in handles:
        handle.remove()
    return maps


def test_the_names_are_known_without_torch() -> None:
    python("import sys; from damlpips.nets.table import BACKBONES; assert BACKBONES; sys.exit('torch' in sys.modules)")


@torch.no_grad()
def test_maps_are_those_of_torchvision(row) -> None:
    name, backbone, network = row
    # in float64, since the scaling is rounded differently, and up to fifty layers amplify that
    x = reference.noise(2, 67, 75)[0].double()
    maps = backbone.replica(backbone.device, torch.float64)(x)
    expected = hooked(copy.deepcopy(network).double(), BACKBONES[name].taps, normalize(x, MEAN, STD))
    assert [m.shape[1] for m in maps] == list(BACKBONES[name].channels)
    sides = [m.shape[2] for m in maps]
    assert sides == sorted(sides, reverse=True)
    assert sides[0] > sides[-1]
    assert len(maps) == len(expected)
    for found, wanted in zip(maps, expected, strict=True):
        assert (found - wanted).abs().max() <= 1e-12 * wanted.abs().max()


@torch.no_grad()
def test_least_size_is_exact(row) -> None:
    name, backbone, network = row
    layers, least = BACKBONES[name].taps, backbone.min_size

    def works(size: int) -> bool:
        try:
            maps = hooked(network, layers, torch.zeros(1, 3, size, size))
        except RuntimeError:  # an empty output of a pooling or a convolution
            return False
        return len(maps) == len(layers)

    # what follows the last tap needs no fewer pixels in some networks: only the layers up to it are asked
    children = list(network.named_children())
    network = nn.Sequential(OrderedDict(children[: [n for n, _ in children].index(layers[-1]) + 1]))
    assert [size for size in range(1, least + 3) if works(size)] == [least, least + 1, least + 2]
    assert all(0 not in m.shape for m in backbone(torch.zeros(1, 3, least, least)))


def test_expected_keys_are_those_of_torchvision(row) -> None:
    from torchvision import models

    spec = BACKBONES[row[0]]
    with torch.device("meta"):
        full = models.get_model(spec.model, weights=None).state_dict()
    needed = {k: tuple(t.shape) for k, t in full.items() if not k.startswith(spec.ignored)}
    assert spec.expected_keys() == needed
    assert len(needed) < len(full)


def test_frozen_for_good(row) -> None:
    _, backbone, _ = row
    x = reference.noise(1, 32, 32)[0]
    before = [m.detach() for m in backbone(x)]
    backbone.train().requires_grad_(True)
    nn.Sequential(backbone).train()
    nn.Sequential(DAMLPIPS(backbone)).train().requires_grad_(True)
    assert not any(module.training for module in backbone.modules())
    assert not any(p.requires_grad for p in backbone.parameters())
    x.requires_grad_()
    maps = backbone(x)
    sum(m.sum() for m in maps).backward()
    assert all(p.grad is None for p in backbone.parameters())
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().max() > 0
    assert all(torch.equal(a, b) for a, b in zip(maps, before, strict=True))


# --- value ranges ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nano", "tiny"])
def test_the_same_images_in_any_range(name) -> None:
    backbone = "nano" if name == "nano" else Backbone(Tiny(), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    pixels = [(image * 255).round().to(torch.uint8) for image in reference.noise(2, 32, 32)]
    expected = DAMLPIPS(backbone)(*pixels)
    for low, high in ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (16.0, 235.0), (-3.0, -2.0)):
        metric = DAMLPIPS(backbone, value_range=(low, high))
        images = [low + (high - low) * (image.double() / 255) for image in pixels]
        # 1e-5: the range's own numbers are rounded to float32
        torch.testing.assert_close(metric(*[i.float() for i in images]), expected, rtol=1e-5, atol=0)
        torch.testing.assert_close(metric(*pixels), expected, rtol=1e-5, atol=0)
        torch.testing.assert_close(metric.double()(*images), DAMLPIPS(backbone).double()(*pixels), rtol=1e-11, atol=0)


def test_scaling_is_the_one_asked_for() -> None:
    x = reference.noise(1, 16, 16)[0]
    backbone = Backbone(Tiny(), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    torch.testing.assert_close(backbone(x), Tiny()(normalize(x, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))))
    torch.testing.assert_close(Backbone(Tiny())(x), Tiny()(normalize(x, MEAN, STD)))


# --- one instance for all -------------------------------------------------------------------------------------------


def test_modules_share_one_instance(random_squeeze_weights) -> None:
    first = LPIPS("squeeze", weights=random_squeeze_weights)
    second = DAMLPIPS("squeeze", weights=str(random_squeeze_weights), value_range=(-1.0, 1.0), rho=0.5)
    assert first.backbone is second.backbone
    assert LPIPS("squeeze", weights=random_squeeze_weights, heads="v0.0").backbone is first.backbone
    assert DAMLPIPS(first.backbone).backbone is first.backbone
    double = DAMLPIPS("squeeze", weights=random_squeeze_weights).double()
    assert double.backbone is not first.backbone
    assert double.backbone is LPIPS("squeeze", weights=random_squeeze_weights).double().backbone
    assert first.backbone.dtype == torch.float32
    assert DAMLPIPS(version=1).backbone is LPIPS("nano", heads="uniform").backbone
    assert DAMLPIPS().backbone is DAMLPIPS(align=False).backbone is not DAMLPIPS(version=1).backbone


def test_freed_with_the_last_user(random_squeeze_weights) -> None:
    first, second = (kind("squeeze", weights=random_squeeze_weights) for kind in (LPIPS, DAMLPIPS))
    alive = weakref.ref(first.backbone)
    del first
    gc.collect()
    assert alive() is second.backbone
    second.double()
    gc.collect()
    assert alive() is None  # nobody is left who works in float32


def test_copies_share_the_instance(random_squeeze_weights) -> None:
    metric = LPIPS("squeeze", weights=random_squeeze_weights)
    for twin in (copy.deepcopy(metric), copy.copy(metric), pickle.loads(pickle.dumps(metric))):
        assert twin.backbone is metric.backbone
        assert torch.equal(twin(*reference.noise(1)), metric(*reference.noise(1)))
    assert pickle.loads(pickle.dumps(metric.backbone)) is metric.backbone
    assert copy.deepcopy(metric.backbone) is metric.backbone


def test_pickles_hold_a_name_not_the_weights(random_squeeze_weights) -> None:
    metric = DAMLPIPS("squeeze", weights=random_squeeze_weights).double()
    pickled = pickle.dumps(metric)
    assert len(pickled) < 10_000  # the network: 2.9 million bytes in float32
    score = metric(*(x.double() for x in reference.noise(1)))
    before = weakref.ref(metric.backbone)
    del metric
    gc.collect()
    assert before() is None
    restored = pickle.loads(pickled)
    assert restored.backbone.dtype == torch.float64
    assert torch.equal(restored(*(x.double() for x in reference.noise(1))), score)


def test_nothing_to_save_or_train(random_squeeze_weights) -> None:
    for metric in (
        LPIPS("squeeze", weights=random_squeeze_weights),
        DAMLPIPS(),
        DAMLPIPS(Backbone(Tiny())),
        LPIPS(Backbone(Tiny()), heads="uniform"),
    ):
        metric(*reference.noise(1))
        assert metric.state_dict() == {}
        assert list(metric.parameters()) == []
        metric.load_state_dict({})
        holder = nn.ModuleDict({"loss": metric, "net": nn.Linear(1, 1)})
        assert set(holder.state_dict()) == {"net.weight", "net.bias"}


def test_shared_instance_cannot_be_moved_under_its_users() -> None:
    metric = DAMLPIPS()
    for move in (metric.backbone.double, metric.backbone.half, lambda: metric.backbone.to("meta")):
        with pytest.raises(RuntimeError, match="'nano' is shared"):
            move()
    assert metric.backbone.dtype == torch.float32


# --- a user's own ---------------------------------------------------------------------------------------------------


def sequence(inplace: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            first=nn.Conv2d(3, 4, 3), act1=nn.ReLU(inplace), second=nn.Conv2d(4, 6, 3, 2), act2=nn.ReLU(inplace)
        )
    )


@torch.no_grad()
def test_sequence_with_taps() -> None:
    network, x = sequence(), reference.noise(2, 16, 20)[0]
    scaled = normalize(x, MEAN, STD)
    first = network.first(scaled)
    second = network.second(first.relu())
    for taps, expected in (
        (["first", "second"], [first, second]),
        (["act1"], [first.relu()]),
        (("act1", "act2"), [first.relu(), second.relu()]),
    ):
        torch.testing.assert_close(Backbone(network, taps)(x), expected)


def test_layers_after_the_last_tap_are_not_run() -> None:
    network = sequence()
    network.append(nn.Linear(1000, 10))
    assert len(Backbone(network, ["act1", "act2"])(reference.noise(1, 16, 16)[0])) == 2


@torch.no_grad()
def test_activation_in_place_does_not_overwrite_a_tap() -> None:
    x = reference.noise(1, 16, 16)[0]
    taps = ["first", "second"]
    for found, expected in zip(Backbone(sequence(True), taps)(x), Backbone(sequence(False), taps)(x), strict=True):
        assert expected.min() < 0
        assert torch.equal(found, expected)
    original = sequence(True)
    Backbone(original, taps)
    assert original.act1.inplace  # the user's own network is left as it was


@torch.no_grad()
def test_traced_network() -> None:
    from torchvision import models

    network = models.resnet18(weights=None).eval()
    x = reference.noise(1, 40, 40)[0]
    taps = ["layer1", "layer2", "layer3.0.conv1"]
    maps = Backbone(network, taps)(x)
    out = network.maxpool(network.relu(network.bn1(network.conv1(normalize(x, MEAN, STD)))))
    out1 = network.layer1(out)
    out2 = network.layer2(out1)
    # the scaling is rounded otherwise
    torch.testing.assert_close(maps, [out1, out2, network.layer3[0].conv1(out2)], rtol=1e-4, atol=1e-5)
    assert DAMLPIPS(Backbone(network, taps, name="resnet18"))(*reference.noise(2, 40, 40)).shape == (2,)


class Returning(nn.Module):
    """A network that returns its maps in a container, or something else."""

    def __init__(self, wrap) -> None:
        super().__init__()
        self.tiny, self.wrap = Tiny(), wrap

    def forward(self, x):
        return self.wrap(*self.tiny(x))


@pytest.mark.parametrize(
    "wrap",
    [lambda a, b: [a, b], lambda a, b: (a, b), lambda a, b: {"fine": a, "coarse": b}],
    ids=["list", "tuple", "dict"],
)
def test_network_that_returns_its_maps(wrap) -> None:
    x, y = reference.noise(2, 16, 16)
    score = DAMLPIPS(Backbone(Returning(wrap)))(x, y)
    assert torch.equal(score, DAMLPIPS(Backbone(Tiny()))(x, y))


@pytest.mark.parametrize("wrap", [lambda a, b: b, lambda a, b: [], lambda a, b: [a, b.mean((2, 3))], lambda a, b: "ab"])
def test_network_that_returns_something_else(wrap) -> None:
    backbone = Backbone(Returning(wrap), name="mine")
    with pytest.raises(TypeError, match=r"'mine'.*feature maps \(N, C, H, W\).*taps="):
        DAMLPIPS(backbone)(*reference.noise(1, 16, 16))


def test_preprocess_stands_in_for_mean_and_std() -> None:
    x, y = reference.noise(2, 16, 16)
    by_hand = DAMLPIPS(Backbone(Tiny(), preprocess=lambda images: normalize(images, MEAN, STD)))
    torch.testing.assert_close(by_hand(x, y), DAMLPIPS(Backbone(Tiny()))(x, y), rtol=1e-5, atol=0)  # rounded otherwise
    seen = []
    metric = DAMLPIPS(
        Backbone(Tiny(), preprocess=lambda images: seen.append(images) or images), value_range=(-1.0, 1.0)
    )
    metric(2 * x - 1, 2 * y - 1)
    torch.testing.assert_close(torch.cat(seen), torch.cat([x, y]))  # in [0, 1], whatever the range of the images


def test_training_the_original_changes_nothing() -> None:
    network = sequence().requires_grad_(True)
    metric = DAMLPIPS(Backbone(network, ["act1", "act2"]))
    before = metric(*reference.noise(1, 16, 16))
    assert all(p.requires_grad for p in network.parameters())  # nor is the user's network frozen
    assert network.training
    optimiser = torch.optim.SGD(network.parameters(), lr=0.5)
    network(reference.noise(1, 16, 16)[0]).sum().backward()
    optimiser.step()
    assert torch.equal(metric(*reference.noise(1, 16, 16)), before)
    assert not torch.equal(DAMLPIPS(Backbone(network, ["act1", "act2"]))(*reference.noise(1, 16, 16)), before)


def test_batch_statistics_and_dropout_stay_still() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU())
    metric = DAMLPIPS(Backbone(network, ["3"]))
    before = metric(*reference.noise(2, 16, 16))
    nn.Sequential(metric).train()
    for _ in range(2):
        assert torch.equal(metric(*reference.noise(2, 16, 16)), before)


@pytest.mark.parametrize("taps", ["act1", [], ["act1", "nowhere"], ["act2", "act1"], ["act1", "act1"]])
def test_wrong_taps(taps) -> None:
    with pytest.raises(ValueError, match="taps") as error:
        Backbone(sequence(), taps)
    for tap in [taps] if isinstance(taps, str) else taps:
        assert tap in str(error.value)


def test_network_that_cannot_be_traced() -> None:
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match=r"Branching cannot be traced.*returns the list of feature maps"):
        Backbone(Branching(), ["anything"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0.5, 0.5)}, r"3 numbers each.*\(0.5, 0.5\)"),
        ({"std": (0.5,)}, r"3 numbers each.*\(0.5,\)"),
        ({"std": (0.2, 0.2, 0.0)}, "std positive"),
    ],
)
def test_wrong_scaling(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        Backbone(Tiny(), **options)


def test_not_a_network() -> None:
    with pytest.raises(TypeError, match=r"network: expected a torch\.nn\.Module, got function"):
        Backbone(lambda x: [x])


def test_own_backbone_follows_the_module_and_is_copied_once() -> None:
    backbone = Backbone(Tiny())
    first, second = DAMLPIPS(backbone).double(), DAMLPIPS(backbone).double()
    assert first.backbone is second.backbone
    assert backbone.dtype == torch.float32
    assert DAMLPIPS(backbone).backbone is backbone
    assert copy.deepcopy(first).backbone is first.backbone


class Pooling(nn.Module):
    def forward(self, x):
        return [x, nn.functional.avg_pool2d(x, 2)]


def test_own_backbone_without_any_tensor_runs_in_the_modules_type() -> None:
    metric = DAMLPIPS(Backbone(Pooling())).double()
    assert metric.backbone.dtype == torch.float64
    x, y = (image.double() for image in reference.noise(1, 16, 16))
    assert metric(x, y).dtype == torch.float64
    assert metric(x, (x + 1e-12).clamp(0, 1)) > 0  # lost in float32


def test_own_backbone_is_pickled_with_its_weights() -> None:
    metric = DAMLPIPS(Backbone(Tiny(), name="mine", min_size=5, mean=(0.4, 0.5, 0.6)))
    restored = pickle.loads(pickle.dumps(metric))
    assert torch.equal(restored(*reference.noise(1)), metric(*reference.noise(1)))
    assert restored.backbone.min_size == 5
    assert repr(restored) == repr(metric)


def test_fingerprint_tells_backbones_apart() -> None:
    def prints(*backbones: Backbone) -> set[str]:
        return {backbone.fingerprint() for backbone in backbones}

    assert len(prints(Backbone(Tiny()), Backbone(Tiny()), Backbone(Tiny(), name="other"))) == 1
    different = [
        Backbone(Tiny()),
        Backbone(Tiny(seed=1)),
        Backbone(Tiny(channels=5)),
        Backbone(Tiny(), mean=(0.4, 0.5, 0.6)),
        Backbone(Tiny(), preprocess=lambda x: x),
        Backbone(sequence(), ["act1", "act2"]),
        Backbone(sequence(), ["act1"]),
        Backbone(sequence(), ["first", "act2"]),
    ]
    assert len(prints(*different)) == len(different)
    metrics = [DAMLPIPS(backbone) for backbone in different]
    assert len({metric.configuration()["backbone"] for metric in metrics}) == len(different)


def test_repr_names_the_backbone() -> None:
    assert "name='mine'" in repr(Backbone(Tiny(), name="mine", min_size=7))
    assert "min_size=7" in repr(Backbone(Tiny(), name="mine", min_size=7))


# --- how often the network runs -------------------------------------------------------------------------------------


@pytest.fixture
def passes():
    """A module, and for each pass of its network the number of images and whether they are differentiated through."""
    metric, seen = DAMLPIPS(Backbone(Tiny())), []

    def note(_module, inputs, _output) -> None:
        seen.append((len(inputs[0]), inputs[0].requires_grad))

    handle = metric.backbone.network.register_forward_hook(note)
    yield metric, seen
    handle.remove()


def test_one_pass_for_a_pair(passes) -> None:
    metric, seen = passes
    x, y = reference.noise(3, 16, 16)
    for call in (metric, metric.per_layer, metric.spatial_map, metric.weights_for):
        call(x, y)
        assert seen == [(6, False)]
        seen.clear()
    metric(x.requires_grad_(), y.requires_grad_())
    assert seen == [(6, True)]
    seen.clear()
    with torch.no_grad():
        metric(x, y.detach())
    assert seen == [(6, False)]


def test_a_constant_image_is_not_differentiated_through(passes) -> None:
    metric, seen = passes
    x, y = reference.noise(3, 16, 16)
    x.requires_grad_()
    both = metric(x, y)
    assert seen == [(3, True), (3, False)]
    seen.clear()
    torch.testing.assert_close(both, metric(x.detach(), y), rtol=1e-5, atol=0)  # convolutions of another batch size


def test_encoded_images_run_once(passes) -> None:
    metric, seen = passes
    x, y = reference.noise(3, 16, 16)
    encoded = metric.encode(y)
    assert seen == [(3, False)]
    for _ in range(2):
        metric(x, encoded)
    metric(encoded, encoded)
    assert seen == [(3, False)] * 3


def test_fingerprint_tells_preprocessing_apart() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3))
    functions = [lambda x: x * 2, lambda x: x * 3, nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), None]
    backbones = [Backbone(network, taps=["0"], preprocess=function) for function in functions]
    assert len({backbone.fingerprint() for backbone in backbones}) == len(functions)
    again = Backbone(network, taps=["0"], preprocess=functions[0])
    assert again.fingerprint() == backbones[0].fingerprint()


def test_preprocessing_by_a_module_is_frozen_and_follows_the_type() -> None:
    torch.manual_seed(0)
    preprocess = nn.Conv2d(3, 3, 1)
    backbone = Backbone(nn.Sequential(nn.Conv2d(3, 4, 3)), taps=["0"], preprocess=preprocess)
    x, y = torch.rand(2, 1, 3, 8, 8)
    before = DAMLPIPS(backbone)(x, y)
    nn.init.zeros_(preprocess.weight)
    assert DAMLPIPS(backbone)(x, y) == before
    assert not any(p.requires_grad for p in backbone.parameters())
    torch.testing.assert_close(DAMLPIPS(backbone).double()(x, y).float(), before)
