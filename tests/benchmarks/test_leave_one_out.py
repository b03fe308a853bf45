"""Heads learned from all contents but one."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import leave_one_out
from damlpips.calibration.choices import read
from damlpips.evaluation.judgements import JudgedSet
from tests.support.voted import voted_set


@pytest.fixture(scope="module")
def voted(tmp_path_factory: pytest.TempPathFactory) -> JudgedSet:
    return voted_set(tmp_path_factory.mktemp("voted"), 3, 3, lambda d: d[:, 0] / d.sum(1), 5)


def test_a_content_has_no_part_in_its_own_heads(voted: JudgedSet, tmp_path: Path) -> None:
    recipe = leave_one_out.replace(leave_one_out.RECIPE, epochs=1, decay_epochs=0)
    choices = read([voted], most=10, seed=0)
    found = leave_one_out.by_heads("nano", choices, recipe, tmp_path)
    assert list(found) == ["uniform", "learned from the others"]
    # votes of a content that are turned round change the heads of the others, and not its own
    first = choices.contents == choices.contents[0]
    turned = np.where(first[:, None], choices.for_each[:, ::-1], choices.for_each)
    other = leave_one_out.replace(choices, for_each=turned, share=(turned[:, 1] / turned.sum(1)).astype(np.float32))
    again = leave_one_out.by_heads("nano", other, recipe, tmp_path)["learned from the others"]
    same = (again == found["learned from the others"]).all(1)
    assert same[first].all()
    assert not same[~first].any()


def test_the_table(voted: JudgedSet, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = ["ref,a,b,votes_a,votes_b"]
    rows += [f"{c.a[0]},{c.a[1]},{c.b[1]},{c.votes_a:g},{c.votes_b:g}" for c in voted.judgements]
    folder = voted.judgements[0].a[0].parent
    (folder / "choices.csv").write_text("\n".join(rows).replace(f"{folder}/", ""))
    leave_one_out.main([str(folder / "choices.csv"), "--backbone", "nano", "--epochs", "1", "--choices", "2"])
    head, _, *lines = capsys.readouterr().out.splitlines()
    assert head == "| network | heads | choices (6) |"
    assert [line.split(" | ")[1] for line in lines] == [
        *("uniform", "learned from the others", "learned less uniform", "human", "majority")
    ]


def test_one_content_is_too_few(voted: JudgedSet, capsys: pytest.CaptureFixture[str]) -> None:
    folder = voted.judgements[0].a[0].parent
    (folder / "one.csv").write_text("ref,a,b,votes_a,votes_b\n0_0.png,0_1.png,0_2.png,1,0\n")
    with pytest.raises(SystemExit):
        leave_one_out.main([str(folder / "one.csv"), "--backbone", "nano"])
    assert "expected two contents at least" in capsys.readouterr().err
