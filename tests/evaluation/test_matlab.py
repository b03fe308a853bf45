"""MATLAB files, as far as tables of scores need them."""

import struct
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from damlpips.evaluation.datasets import DatasetError, matlab
from damlpips.evaluation.datasets.matlab import read_matlab


class TestMatlab:
    @pytest.mark.parametrize("compressed", [True, False])
    def test_numbers_and_names(self, compressed: bool, tmp_path: Path) -> None:
        names = np.array([["bikes.bmp", "é", "", "x" * 99]], object)
        numbers = {"f": np.array([[0.5, -2], [1e300, np.nan]]), "u": np.uint8([[3]]), "l": np.array([True, False])}
        others = {
            "struct": {"a": 1.0},
            "text": "abc",
            "complex": np.array([1j]),
            "mixed": np.array([["a", 1.0]], object),
        }
        path = tmp_path / "a.mat"
        savemat(path, {**numbers, **others, "names": names}, do_compression=compressed)
        found = read_matlab(path)
        assert found.keys() == {*numbers, "names"}
        assert found["names"] == names.ravel().tolist()
        # column after column
        np.testing.assert_array_equal(found["f"], [0.5, 1e300, -2, np.nan])
        assert (found["u"], found["l"]) == ([3], [1, 0])

    def test_the_other_order_of_bytes(self, tmp_path: Path) -> None:
        path = tmp_path / "a.mat"
        flags = struct.pack(">IIII", 6, 8, 6, 0)
        dimensions = struct.pack(">IIii", 5, 8, 1, 2)
        # a small element, and numbers in fewer bytes than their class has: double, but kept as int16
        name, numbers = struct.pack(">HH4s", 1, 1, b"a"), struct.pack(">HHhh", 4, 3, -2, 7)
        array = flags + dimensions + name + numbers
        path.write_bytes(b" " * 124 + b"\1\0MI" + struct.pack(">II", 14, len(array)) + array)
        assert read_matlab(path) == {"a": [-2, 7]}

    @pytest.mark.parametrize("written_by", [4, 7.3])
    def test_other_formats(self, written_by: float, tmp_path: Path) -> None:
        path = tmp_path / "a.mat"
        if written_by == 4:
            savemat(path, {"a": [1.0]}, format="4")
        else:
            path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(400))
        with pytest.raises(DatasetError, match=r"a\.mat: expected a MATLAB file of level 5, got one that begins b'"):
            read_matlab(path)

    def test_a_variable_that_unpacks_without_end(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(matlab, "LARGEST_VARIABLE", 10_000)
        savemat(tmp_path / "a.mat", {"a": np.zeros(20_000)}, do_compression=True)
        with pytest.raises(DatasetError, match=r"a\.mat: damaged MATLAB file \(ValueError: an element of 160048 bytes"):
            read_matlab(tmp_path / "a.mat")
