"""The benchmark's own logic: order, medians, memory, agreement, limits, resumption, tables. No test looks at a time."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.bench import harness, runner
from benchmarks.bench.__main__ import main
from benchmarks.bench.cells import GIB, Cell, Cost, Limits, Measured, Outcome, Store, expected_cost, read
from benchmarks.bench.contenders import FORWARD, TRAINING, Contender, DisagreementError, Field, Place, check_agreement
from benchmarks.bench.harness import Spread, interleaved, peak_bytes, ratio
from benchmarks.bench.lineup import field
from benchmarks.bench.peers import peers
from benchmarks.bench.plot import line
from benchmarks.bench.report import long_report, page

CPU = torch.device("cpu")
HERE = {"cpu": "a machine", "threads": 1, "gpu": None}
WIDE = Limits(gib=100.0, seconds=100.0)
FLOATS_OF_A_MEBIBYTE = 1 << 18

durations = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=40)


def one_second(call: Callable[[], object]) -> float:
    call()
    return 1.0


def mean_difference(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).square().mean((1, 2, 3))


def outcome(cell: Cell, *measured: Measured) -> Outcome:
    return Outcome(cell, HERE, WIDE, measured)


def rows_of(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines() if row.startswith("|")]


# order and medians


def test_calls_are_interleaved_and_every_second_round_goes_backwards() -> None:
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    seconds = interleaved(calls, one_second, budget=0)
    assert "".join(order) == "abc" + "cba" + "abc"
    assert seconds == {name: [1.0] * 3 for name in "abc"}


@given(st.floats(1e-3, 1e3), st.floats(0, 1e3))
def test_rounds_go_on_until_the_budget_is_spent(duration: float, budget: float) -> None:
    rounds = len(interleaved({"a": lambda: None, "b": lambda: None}, lambda _: duration, budget=budget)["a"])
    assert 3 <= rounds <= 30
    assert rounds == 30 or rounds * 2 * duration >= budget * (1 - 1e-9)  # sums of floats are rounded
    assert rounds == 3 or (rounds - 1) * 2 * duration <= budget * (1 + 1e-9)


@given(durations)
def test_spread_holds_the_quartiles(values: list[float]) -> None:
    # interpolated in another order: a few roundings of float64
    np.testing.assert_allclose(Spread.of(values), np.percentile(values, [25, 50, 75]), rtol=1e-12)


def test_spread_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one measurement"):
        Spread.of([])


@given(durations, st.floats(0.1, 10))
def test_ratio_is_that_of_each_round(values: list[float], factor: float) -> None:
    # each round is as much slower, however rounds differ: a rounding of each product and quotient
    np.testing.assert_allclose(ratio([factor * v for v in values], values), [factor] * 3, rtol=1e-12)


# memory


def test_peak_is_what_a_call_holds_at_most() -> None:
    before = torch.ones(FLOATS_OF_A_MEBIBYTE)

    def call() -> Tensor:
        first = before + 1
        second = first * 2
        del first
        third = second + 1  # two are held at a time, of three
        return third

    # the three numbers become tensors, too
    assert 0 <= peak_bytes(call, CPU) - (2 << 20) <= 3 * 8


def test_peak_of_a_call_that_keeps_nothing() -> None:
    assert peak_bytes(lambda: None, CPU) == 0


def test_peak_of_training_has_the_graph_in_it() -> None:
    def chain(x: Tensor, y: Tensor) -> Tensor:
        return (x - y).exp().exp().mean((1, 2, 3))

    x, y = harness.images(1, 64, CPU)
    image = x.numel() * x.element_size()
    forward, training = (peak_bytes(lambda t=t: harness.run(t, chain, x, y), CPU) for t in (FORWARD, TRAINING))
    assert 2 * image <= forward < 3 * image  # what goes in and what comes out
    assert training >= 3 * image  # both results of exp, and a gradient


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_time_and_peak_on_cuda() -> None:
    device = torch.device("cuda")
    before = torch.ones(FLOATS_OF_A_MEBIBYTE, device=device)
    assert peak_bytes(lambda: before + 1, device) == 1 << 20
    assert harness.clock_of(device)(lambda: before + 1) > 0


# who takes part, and whether they agree


@pytest.mark.parametrize(
    ("net", "names"), [("alex", ["lpips", "torchmetrics"]), ("vgg", ["lpips", "torchmetrics", "piq"])]
)
def test_all_who_claim_lpips_give_it_on_the_same_weights(net: str, names: list[str], tmp_path: Path) -> None:
    pytest.importorskip("piq")
    entrants = field(net, tmp_path, Place())
    claims = {c.name: c.claims for c in entrants.contenders if c.claims}
    assert {*names, "LPIPS"} <= set(claims)
    x, y = harness.images(2, 48, CPU)
    with torch.no_grad():
        scores = {c.name: c.call(x, y) for c in entrants.contenders if c.claims}
    assert all(s.shape == (2,) for s in scores.values())
    assert float(scores["LPIPS"].min()) > 100 * 1e-5  # differences of 1e-5 would show
    check_agreement(scores, claims)


def test_what_a_package_cannot_do_is_left_out_with_its_reason() -> None:
    found, left_out = peers("squeeze", Place(), ["lpips", "piq"])
    assert [c.name for c in found] == ["lpips"]
    assert left_out == {"piq": "its LPIPS is on VGG only"}


def test_the_floor_is_the_network_alone(tmp_path: Path) -> None:
    of_name = {c.name: c for c in field("nano", tmp_path, Place()).contenders}
    x, y = harness.images(2, 64, CPU)
    joined, in_two = of_name["network, joined"], of_name["network, in two"]
    # kernels are chosen by the size of the batch: float32's last bits
    torch.testing.assert_close(joined.call(x, y)[:2], in_two.call(x, y), rtol=1e-5, atol=1e-5)
    assert not joined.takes_part(TRAINING, 64)
    as_it_is = of_name["DAMLPIPS, viewing_side=None"]
    assert as_it_is.takes_part(FORWARD, 257)
    assert not as_it_is.takes_part(FORWARD, 256)


def test_networks_run_in_bfloat16(tmp_path: Path) -> None:
    x, y = harness.images(1, 64, CPU)
    exact, rounded = (
        {c.name: c.call(x, y).detach() for c in field("nano", tmp_path, Place(dtype=dtype)).contenders if c.is_score}
        for dtype in (torch.float32, torch.bfloat16)
    )
    for name, score in exact.items():
        assert 0 < float((rounded[name] - score).abs() / score) < 0.05, name  # bfloat16 has 8 bits


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (torch.tensor([0.3, 0.50002]), "differ by 2.0e-05"),
        (torch.tensor([0.3, torch.nan]), "not finite"),
        (torch.tensor(0.3), "shape"),
    ],
)
def test_different_scores_under_one_claim_are_refused(second: Tensor, said: str) -> None:
    with pytest.raises(DisagreementError, match=said):
        check_agreement({"a": torch.tensor([0.3, 0.5]), "b": second}, {"a": "LPIPS", "b": "LPIPS"})


def test_agreement_is_asked_of_one_claim_only_and_within_rounding() -> None:
    scores = {"a": torch.tensor([0.3]), "b": torch.tensor([0.9]), "c": torch.tensor([0.300001])}
    check_agreement(scores, {"a": "LPIPS", "b": None, "c": "LPIPS"})


# the runner


class Counted:
    """A contender that counts its calls."""

    calls, error = 0, 0.0

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return mean_difference(x, y) + self.error


@pytest.fixture
def entrants(monkeypatch: pytest.MonkeyPatch) -> dict[str, Counted]:
    """Two contenders that claim the same score, in place of the real ones."""
    counted = {"lpips": Counted(), "other": Counted()}

    def contenders_on(*_: object) -> Field:
        return Field(tuple(Contender(name, c, claims="LPIPS") for name, c in counted.items()), {"absent": "no reason"})

    def peak(call: Callable[[], object], _: torch.device) -> int:
        call()
        return 1 << 20

    monkeypatch.setattr(runner, "contenders_on", contenders_on)
    # the profiler takes a third of a second to start
    monkeypatch.setattr(harness, "peak_bytes", peak)
    return counted


CELLS = [Cell("nano", 32, batch, FORWARD) for batch in (1, 2)]


def run_of(file: Path | None, limits: Limits = WIDE, environment: dict = HERE) -> runner.Runner:
    return runner.Runner(Place(), environment, limits, 0.0, Store(file), say=lambda _: None)


def measure(file: Path | None, **options: object) -> list[Outcome]:
    return list(run_of(file, **options).measure(CELLS))


def counts(entrants: dict[str, Counted]) -> list[int]:
    found = [c.calls for c in entrants.values()]
    for c in entrants.values():
        c.calls = 0
    return found


def test_what_the_file_holds_is_not_measured_again(entrants: dict[str, Counted], tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    first = measure(file)
    assert min(counts(entrants)) > 0
    assert [len(m.seconds) for o in first for m in o.measured] == [3] * 4
    assert all(m.peak_bytes == 1 << 20 for o in first for m in o.measured)
    assert measure(file) == first == read(file)
    assert counts(entrants) == [0, 0]


@pytest.mark.parametrize("what", ["machine", "contenders"])
def test_another_machine_or_contender_is_measured(what: str, entrants: dict[str, Counted], tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    measure(file)
    counts(entrants)
    if what == "machine":
        measure(file, environment={**HERE, "threads": 2})
        assert len(read(file)) == 2 * len(CELLS)
    else:
        entrants["third"] = Counted()
        measure(file)
        assert [[m.name for m in o.measured] for o in read(file)] == [["lpips", "other", "third"]] * len(CELLS)
    assert min(counts(entrants)) > 0


def test_a_run_that_was_stopped_goes_on(entrants: dict[str, Counted], tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    next(run_of(file).measure(CELLS))
    assert [o.cell for o in read(file)] == CELLS[:1]
    assert [o.cell for o in measure(file)] == CELLS
    assert [o.cell for o in read(file)] == CELLS


def test_nothing_is_timed_or_kept_where_scores_differ(entrants: dict[str, Counted], tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    entrants["other"].error = 1e-3
    with pytest.raises(DisagreementError, match="other and lpips both claim LPIPS"):
        measure(file)
    assert not file.exists()
    assert counts(entrants) == [1, 1]


def test_cells_above_the_limit_say_so_until_the_limit_grows(entrants: dict[str, Counted], tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    low = Limits(gib=CELLS[0].input_bytes / GIB / 2, seconds=100.0)  # the images alone fill it
    refused = measure(file, limits=low)
    assert all("GiB, more than" in m.skipped for o in refused for m in o.measured)
    assert "skipped: about" in long_report(refused)
    counts(entrants)
    assert measure(file, limits=low) == refused
    assert counts(entrants) == [0, 0]
    assert not any(m.skipped for o in measure(file) for m in o.measured)


def test_the_cost_of_a_large_cell_is_judged_by_a_small_image(entrants: dict[str, Counted]) -> None:
    sizes: list[torch.Size] = []

    def watched(x: Tensor, y: Tensor) -> Tensor:
        sizes.append(x.shape)
        return mean_difference(x, y)

    entrants["other"] = watched  # type: ignore[assignment]
    low = Limits(gib=100.0, seconds=0.0)  # whatever a call takes, it is too long
    (found,) = run_of(None, low).measure([Cell("nano", 512, 8, FORWARD)])
    assert all("s a call, more than 0 s" in m.skipped for m in found.measured)
    assert set(sizes) == {(1, 3, 256, 256)}


def test_calls_above_the_limit_of_time_are_refused() -> None:
    assert Cost(3.0, 0.0).refusal(CELLS[0], Limits(gib=1.0, seconds=2.0)) == "about 3 s a call, more than 2 s"
    assert Cost(1.0, 0.0).refusal(CELLS[0], Limits(gib=1.0, seconds=2.0)) is None


def test_an_allocator_that_gives_up_is_told_from_other_errors(entrants: dict[str, Counted]) -> None:
    def too_much(x: Tensor, y: Tensor) -> Tensor:
        # more than any address space; only where there is a batch, so that scores can be compared
        return mean_difference(x, y) if len(x) == 1 else torch.empty(1 << 60)

    entrants["other"] = too_much  # type: ignore[assignment]
    last = measure(None)[-1]
    assert [m.skipped for m in last.measured] == [None, "out of memory"]

    def broken(x: Tensor, y: Tensor) -> Tensor:
        return x.reshape(7)

    entrants["other"] = broken  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="shape"):
        measure(None)


def test_cost_is_in_proportion_to_the_largest_smaller_cell() -> None:
    small, middle, large = (Cell("alex", side, 1, FORWARD) for side in (64, 128, 256))
    known = [outcome(c, Measured("a", (t,), b)) for c, t, b in ((small, 1.0, 10), (middle, 3.0, 30), (large, 5.0, 50))]
    assert expected_cost(known, replace(middle, batch=2), "a") == Cost(6.0, 60.0)
    assert expected_cost(known, Cell("alex", 32, 1, FORWARD), "a") is None
    assert expected_cost(known, replace(large, task=TRAINING), "a") is None
    assert expected_cost(known, large, "b") is None


# tables and figures


@pytest.fixture
def results() -> list[Outcome]:
    one, many = Cell("alex", 64, 1, FORWARD), Cell("alex", 64, 8, FORWARD)
    return [
        outcome(many, Measured("lpips", skipped="about 9 GiB, more than 8 GiB"), Measured("LPIPS", (0.5,), 3 << 20)),
        outcome(one, Measured("lpips", (0.2, 0.4, 0.8), 4 << 20), Measured("LPIPS", (0.1, 0.1, 0.1), 1 << 20)),
    ]


def test_long_table_has_medians_quartiles_and_ratios(results: list[Outcome]) -> None:
    rows = rows_of(long_report(results))
    assert len({len(row) for row in rows if row[0] in ("backbone", "alex")}) == 1
    assert [row for row in rows if row[0] == "alex"] == [
        ["alex", "64", pairs, FORWARD, "float32", *rest]
        for pairs, *rest in (
            ["1", "lpips", "400 (300 to 600)", "1.00 (1.00 to 1.00)", "4.0", "1.00"],
            # round by round: 1/2, 1/4, 1/8
            ["1", "LPIPS", "100 (100 to 100)", "0.25 (0.19 to 0.38)", "1.0", "0.25"],
            ["8", "lpips", "skipped: about 9 GiB, more than 8 GiB", "-", "-", "-"],
            ["8", "LPIPS", "500 (500 to 500)", "-", "3.0", "-"],
        )
    ]
    assert ["cpu", "a machine"] in rows
    assert "gpu" not in [row[0] for row in rows]  # there is none


def test_page_has_a_column_a_contender(results: list[Outcome]) -> None:
    rows = [row for row in rows_of(page(results)) if row[0] in ("side", "64")]
    assert rows == [
        ["side", "pairs", "task", "dtype", "lpips, ms", "LPIPS"],
        ["64", "1", FORWARD, "float32", "400 (300 to 600)", "0.25 (0.19 to 0.38)"],
        ["64", "8", FORWARD, "float32", "skipped", "500 (500 to 500) ms"],
        ["side", "pairs", "task", "dtype", "lpips, MiB", "LPIPS"],
        ["64", "1", FORWARD, "float32", "4.0", "0.25"],
        ["64", "8", FORWARD, "float32", "skipped", "3.0 MiB"],
    ]


def test_plot_has_what_was_measured_against_pixels(results: list[Outcome]) -> None:
    assert line(results, "LPIPS", "ms") == ([64**2, 8 * 64**2], [100.0, 500.0])
    assert line(results, "lpips", "peak MiB") == ([64**2], [4.0])


def test_command_measures_resumes_and_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, markdown, plot = (tmp_path / name for name in ("results.json", "tables.md", "plot.svg"))
    cell = ["--backbones", "nano", "--sizes", "64", "--batches", "1", "--budget", "0"]
    main([*cell, "--json", str(file), "--markdown", str(markdown)])
    first = capsys.readouterr()
    metrics = [row[5] for row in rows_of(first.out) if row[0] == "nano"]
    assert metrics == [
        *("lpips (alex)", "LPIPS", "DAMLPIPS", "network, joined", "network, in two"),
        *("lpips (alex)", "LPIPS", "DAMLPIPS", "network, in two"),
    ]
    main([*cell, "--json", str(file)])
    second = capsys.readouterr()
    assert second.out == first.out
    assert second.err.count("known") == 2
    main(["--from-json", str(file), "--plot", str(plot)])
    assert capsys.readouterr().out == first.out
    assert "### nano" in markdown.read_text(encoding="utf-8")
    assert "<svg" in plot.read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["{", '[{"cell": 3}]', "[1]", json.dumps([{"cell": {"backbone": "alex"}}])])
def test_a_file_that_is_not_of_this_tool_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit, match="expected the JSON of an earlier run"):
        main(["--from-json", str(file)])


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--sizes", "8"], "at least 32, got 8"), (["--device", "mps"], "expected one of cpu, cuda, got mps")],
)
def test_bad_options_are_refused(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(options)
    assert said in capsys.readouterr().err
