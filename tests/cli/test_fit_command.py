"""`damlpips fit`: what it writes, prints and refuses."""

import csv
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.commands import contents, refused, run
from tests.support.layouts import bapps_jnd
from tests.support.voted import voted_set

QUICK = ("--backbone", "nano", "--epochs", 1, "--decay-epochs", 1, "--samples", 20)


@pytest.fixture(scope="module")
def choices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV file of choices, and their images beside it."""
    folder = tmp_path_factory.mktemp("choices")
    judged = voted_set(folder, 8, 3, lambda d: d[:, 0] / d.sum(1), 5)
    with open(folder / "choices.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ref", "a", "b", "votes_a", "votes_b"])
        writer.writerows([c.a[0].name, c.a[1].name, c.b[1].name, c.votes_a, c.votes_b] for c in judged.judgements)
    return folder / "choices.csv"


def test_heads_a_card_and_figures(choices: Path, tmp_path: Path) -> None:
    out = tmp_path / "heads.safetensors"
    result = run("fit", choices, "--variant", "lin", *QUICK, "-o", out)
    assert (result.exit_code, result.stderr) == (0, "")
    card = json.loads((tmp_path / "heads.json").read_text())
    assert card["recipe"]["epochs"] == 1
    first, second, before, after, *_ = result.stdout.splitlines()
    assert first == f"{out}: nano, learned from 18 choices of 6 contents"
    assert second == "2AFC of 6 choices of 2 contents held out:"
    for line, name in ((before, "before"), (after, "after")):
        assert line.split()[:2] == [name, f"{card['figures'][name]['value']:.3f}"]
    assert set(contents(tmp_path)) == {out, tmp_path / "heads.json"}
    images = [choices.parent / name for name in ("0_0.png", "0_1.png")]
    scored = run("score", *images, "--metric", "lpips", "--backbone", "nano", "--heads", out, "--json", "-")
    assert (scored.exit_code, scored.stderr) == (0, "")


def test_a_network_beside_the_heads(choices: Path, tmp_path: Path) -> None:
    out, network = tmp_path / "lpips.safetensors", tmp_path / "lpips.weights.safetensors"
    result = run("fit", choices, "--variant", "tune", "--swap", "--workers", 1, *QUICK, "-o", out)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[0] == f"{network}: the network"
    assert set(contents(tmp_path)) == {out, network, tmp_path / "lpips.json"}
    card = json.loads((tmp_path / "lpips.json").read_text())
    assert (card["variant"], card["recipe"]["swap"]) == ("tune", True)
    images = [choices.parent / name for name in ("0_0.png", "0_1.png")]
    options = ("--metric", "lpips", "--backbone", "nano", "--heads", out, "--weights", network)
    scored = run("score", *images, *options, "--json", "-")
    assert (scored.exit_code, scored.stderr) == (0, "")


def test_quiet(choices: Path, tmp_path: Path) -> None:
    result = run("fit", choices, *QUICK, "--quiet", "-o", tmp_path / "heads.safetensors")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_the_same_seed_writes_the_same_bytes_and_goes_on_from_checkpoints(choices: Path, tmp_path: Path) -> None:
    written = []
    for k in range(3):
        out = tmp_path / f"{k}.safetensors"
        keeping = ("--cache", tmp_path / "cache", "--checkpoints", tmp_path / "run") if k else ()
        assert run("fit", choices, *QUICK, *keeping, "-o", out).exit_code == 0
        written.append(out.read_bytes())
    assert len(set(written)) == 1


def test_the_loss_is_logged(choices: Path, tmp_path: Path) -> None:
    logged = ("--log", tmp_path / "log", "--precision", "bf16-mixed", "--batch", 9)
    assert run("fit", choices, *QUICK, *logged, "-o", tmp_path / "heads.safetensors").exit_code == 0
    with open(tmp_path / "log/metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    # two batches of 9 choices an epoch
    assert [(row["epoch"], row["step"]) for row in rows] == [("0", "0"), ("0", "1"), ("1", "2"), ("1", "3")]
    assert all(0 < float(row["loss"]) < 10 for row in rows)
    shown = EventAccumulator(str(tmp_path / "log")).Reload().Scalars("loss")
    assert [f"{event.value:.4f}" for event in shown] == [f"{float(row['loss']):.4f}" for row in rows]


def test_it_is_not_started_by_torchrun(choices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused("leave torchrun out, and use --devices N", "fit", choices, "-o", tmp_path / "heads.safetensors")


def test_sets_of_other_judgements_are_left_out(choices: Path, tmp_path: Path) -> None:
    image = (choices.parent / "0_1.png").read_bytes()
    leaf = bapps_jnd(tmp_path / "jnd/val/cnn", draw=lambda path: path.write_bytes(image))
    out = tmp_path / "heads.safetensors"
    result = run("fit", choices, leaf, *QUICK, "-o", out)
    assert result.exit_code == 0
    assert "jnd/val/cnn is left out: same or not, expected choices or ratings" in result.stderr
    refused_lines = run("fit", leaf, *QUICK, "-o", out)
    assert refused_lines.exit_code == 2
    assert refused_lines.stderr.splitlines()[-1] == "damlpips: no choices or ratings to learn from"


def test_each_set_has_its_own_figure(choices: Path, tmp_path: Path) -> None:
    rows = ["ref,dist,score", *(f"{c}_0.png,{c}_{k}.png,{k}" for c in range(8) for k in range(1, 4))]
    rated = choices.parent / "rated.csv"
    rated.write_text("\n".join(rows))
    result = run("fit", choices, rated, *QUICK, "-o", tmp_path / "heads.safetensors")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [line for line in result.stdout.splitlines() if not line.startswith("  ")]
    # the images, and so the contents, of both are the same
    assert [line.split(":")[0] for line in lines[1:]] == [
        "2AFC of 12 choices of 2 contents held out",
        "2AFC of choices, 6 judgements of 2 contents",
        "SRCC of rated, 6 judgements of 2 contents",
        "mean of 2 sets",
    ]
    card = json.loads((tmp_path / "heads.json").read_text())
    assert [(s["set"], s["name"]) for s in card["figures"]["sets"]] == [("choices", "2AFC"), ("rated", "SRCC")]
    assert card["figures"]["mean"]["after"]["value"] == pytest.approx(
        sum(s["after"]["value"] for s in card["figures"]["sets"]) / 2
    )
    # three choices between three images
    assert card["data"]["sets"] == [{"name": "choices", "choices": 24}, {"name": "rated", "choices": 24}]


def test_an_image_that_cannot_be_read_names_its_choice(choices: Path, tmp_path: Path) -> None:
    bad = choices.parent / "damaged.csv"
    bad.write_text(choices.read_text().replace("2_1.png", "damaged.png"))
    (choices.parent / "damaged.png").write_bytes(b"no image")
    message = "damaged, row 6: .*damaged.png: not an image of a known kind"
    for variant, workers in (("lin", 0), ("lin", 1), ("tune", 0), ("tune", 1)):
        options = ("--variant", variant, "--workers", workers, "-o", tmp_path / "heads.safetensors")
        refused(message, "fit", bad, *QUICK, *options)


def test_a_full_disk_is_one_line_and_leaves_nothing(
    choices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / "heads.safetensors"
    monkeypatch.setattr(os, "posix_fallocate", full)
    cache = tmp_path / "cache"
    refused("cache/.*npy: No space left on device", "fit", choices, *QUICK, "--cache", cache, "-o", out)
    assert not list(cache.iterdir())
    monkeypatch.undo()
    monkeypatch.setattr(Path, "write_bytes", full)
    run_folder = tmp_path / "run"
    refused("checkpoints: .*last.ckpt: No space left", "fit", choices, *QUICK, "--checkpoints", run_folder, "-o", out)
    assert not list(run_folder.iterdir())
    assert not out.exists()


def test_what_it_refuses(choices: Path, tmp_path: Path) -> None:
    out = tmp_path / "heads.safetensors"
    for message, arguments in (
        ("--out .*heads.pth: expected a name that ends in .safetensors", (choices, "-o", tmp_path / "heads.pth")),
        ("--out .*: no such folder", (choices, "-o", tmp_path / "none/heads.safetensors")),
        ("--backbone resnet: expected nano, alex", (choices, "-o", out, "--backbone", "resnet")),
        ("--dropout: expected a share from 0 to 1, 1 excluded, got 1.0", (choices, "-o", out, "--dropout", 1)),
        ("--learning-rate: expected a finite number above 0, got nan", (choices, "-o", out, "--learning-rate", "nan")),
        ("none.csv: No such file", (tmp_path / "none.csv", "-o", out)),
        ("'--variant'.*'all'", (choices, "-o", out, "--variant", "all")),
        ("--cache .*: only --variant lin", (choices, "-o", out, "--variant", "tune", "--cache", tmp_path / "cache")),
        ("--weights .*at random", (choices, "-o", out, "--variant", "scratch", "--weights", "alex.pth")),
        ("unknown heads 'v9'", (choices, "-o", out, *QUICK, "--heads", "v9")),
        (r"epoch \d, batch \d: the loss is", (choices, "-o", out, *QUICK, "--learning-rate", 1e30)),
        (r"--held-out: 0.95 of 8 contents", (choices, "-o", out, *QUICK, "--held-out", 0.95)),
        ("'--precision'.*'16-true'.*'bf16-mixed'", (choices, "-o", out, "--precision", "16-true")),
        ("--devices: expected 1 to inf .* cpu, got 0", (choices, "-o", out, *QUICK, "--device", "cpu", "--devices", 0)),
    ):
        refused(message, "fit", *arguments)
    assert not contents(tmp_path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "bad.csv: the table is empty"),
        (["ref,a,b,votes_a,votes_b"], "bad.csv: the table is empty"),
        (["ref,a,b,votes_a,votes_b", "0_0.png,0_1.png,0_2.png,0,0"], "bad.csv, line 2, .*expected votes, got 0 and 0"),
        (["ref,a,b,votes_a,votes_b", "0_0.png,0_1.png,0_2.png,1"], "bad.csv, line 2: 4 fields, the header has 5"),
        (
            ["ref,a,b,votes_a,votes_b,votes", "0_0.png,0_1.png,0_2.png,1,2,5"],
            "line 2, .*: 1 and 2, expected a sum of 5",
        ),
        (["ref,a,b,judge", "0_0.png,0_1.png,0_2.png,1.5"], "line 2, column 'judge': expected a share .* got 1.5"),
        (["ref,a,b,judge", "0_0.png,0_1.png,none.png,1"], "line 2, column 'b': no image 'none.png'"),
    ],
)
def test_an_empty_or_malformed_table_names_the_row(
    rows: list[str], message: str, choices: Path, tmp_path: Path
) -> None:
    bad = choices.parent / "bad.csv"
    bad.write_text("".join(f"{row}\n" for row in rows))
    refused(message, "fit", bad, *QUICK, "-o", tmp_path / "heads.safetensors")


def test_bapps_is_read(choices: Path, tmp_path: Path) -> None:
    leaf = tmp_path / "2afc/train/cnn"
    for folder, k in (("ref", 0), ("p0", 1), ("p1", 2)):
        (leaf / folder).mkdir(parents=True)
        for c in range(6):
            (leaf / folder / f"{c:06d}.png").write_bytes((choices.parent / f"{c}_{k}.png").read_bytes())
    (leaf / "judge").mkdir()
    for c in range(6):
        np.save(leaf / f"judge/{c:06d}.npy", np.array([c / 5], np.float32))
    out = tmp_path / "heads.safetensors"
    result = run("fit", tmp_path, *QUICK, "-o", out)
    assert (result.exit_code, result.stderr) == (0, "")
    card = json.loads((tmp_path / "heads.json").read_text())
    assert card["data"]["sets"] == [{"name": "2afc/train/cnn", "choices": 6}]
