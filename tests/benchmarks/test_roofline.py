"""The counts behind the share of the roofline."""

from pathlib import Path

import pytest
import torch

from benchmarks.bench import roofline
from benchmarks.bench.contenders import Place
from benchmarks.bench.lineup import ours
from benchmarks.bench.roofline import Work, main, work_of
from damlpips import LPIPS, Backbone


def test_counts_of_a_small_network_are_those_by_hand() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    model = LPIPS(Backbone(network, taps=["1", "2"], min_size=4), heads="uniform")
    image, first, second = 3 * 16 * 16, 8 * 14 * 14, 8 * 7 * 7
    convolution, pooling = image + 8 * 3 * 9 + 8 + first, first + second
    found = work_of(model, torch.rand(2, 3, 16, 16))
    assert found == Work(2 * 2 * first * 3 * 9, 2 * 4 * (convolution + pooling + first + second))


def test_half_the_bytes_and_the_same_operations_in_half_precision(tmp_path: Path) -> None:
    x = torch.rand(1, 3, 64, 64)
    places = (Place(torch.device("cpu"), dtype) for dtype in (torch.float32, torch.bfloat16))
    whole, half = (work_of(ours("alex", tmp_path, place)[0].call, x) for place in places)
    assert half == Work(whole.operations, whole.bytes / 2)


def test_what_takes_longer_bounds() -> None:
    work, rates = Work(100.0, 10.0), Work(50.0, 10.0)
    assert (work.least_seconds(rates), work.bound(rates)) == (2.0, "arithmetic")
    rates = Work(1000.0, 10.0)
    assert (work.least_seconds(rates), work.bound(rates)) == (1.0, "memory")


def test_rates_are_amounts_by_seconds_and_the_faster_of_two() -> None:
    measured = {name: (print, amount) for name, amount in (("product", 10.0), ("convolution", 30.0), ("copy", 8.0))}
    seconds = {"product": [1.0, 2.0], "convolution": [2.0, 10.0], "copy": [2.0, 4.0]}
    assert roofline.rates_of(measured, seconds) == [Work(15.0, 4.0), Work(5.0, 2.0)]


def test_the_command_prints_a_row_for_each_metric(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(roofline.SIDE, "cpu", 256)
    monkeypatch.setitem(roofline.COPIED, "cpu", 1 << 20)
    monkeypatch.setitem(roofline.WIDE_IMAGES, "cpu", 1)
    main(["--backbones", "nano", "--size", "32", "--batch", "1", "--budget", "0"])
    *_, lpips, damlpips = capsys.readouterr().out.splitlines()
    assert lpips.startswith("| LPIPS | nano | ")
    assert damlpips.startswith("| DAMLPIPS | nano | ")
    assert float(lpips.split("|")[3]) > 0
    assert float(lpips.split("|")[8].split()[0]) > 0


def test_without_a_gpu_it_says_so(capsys) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(SystemExit):
        main(["--device", "cuda"])
    assert "no CUDA device is available here" in capsys.readouterr().err
