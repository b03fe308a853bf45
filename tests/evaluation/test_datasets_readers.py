"""MATLAB files and Excel workbooks, as far as tables of scores need them."""

import struct
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from damlpips.evaluation.datasets import DatasetError, matlab, spreadsheet
from damlpips.evaluation.datasets.matlab import read_matlab
from damlpips.evaluation.datasets.spreadsheet import read_sheet
from tests.support import layouts

MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'


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


class TestSpreadsheet:
    def test_cells_by_their_places(self, tmp_path: Path) -> None:
        path = tmp_path / "a.xlsx"
        layouts.workbook(path, {"one": [["x"]], "two": [["", "a & b"], [], [1600, "", 0.25]]})
        assert read_sheet(path, "two") == {1: {1: "a & b"}, 3: {0: "1600", 2: "0.25"}}
        assert read_sheet(path, "one") == {1: {0: "x"}}

    def test_texts_in_pieces_in_place_and_of_formulas(self, tmp_path: Path) -> None:
        rows = (
            '<row r="1"><c t="inlineStr"><is><r><t>im</t></r><r><t>age</t></r></is></c>'
            '<c t="str"><f>A1</f><v>text</v></c><c r="AB1"><v>3</v></c><c t="b"><v>1</v></c></row>'
            "<row><c><v>next</v></c><c/></row>"
        )
        path = self.with_sheet(tmp_path, f"<worksheet {MAIN}><sheetData>{rows}</sheetData></worksheet>")
        assert read_sheet(path, "one") == {1: {0: "image", 1: "text", 27: "3", 28: "1"}, 2: {0: "next"}}

    def with_sheet(self, folder: Path, sheet: str) -> Path:
        path = folder / "a.xlsx"
        layouts.workbook(path, {"one": []})
        layouts.pack(path, {**layouts.parts_of(path), "xl/worksheets/sheet1.xml": sheet.encode()})
        return path

    def test_no_such_sheet(self, tmp_path: Path) -> None:
        layouts.workbook(tmp_path / "a.xlsx", {"one": [], "two": []})
        with pytest.raises(DatasetError, match=r"a\.xlsx: no sheet 'three', expected it among 'one', 'two'"):
            read_sheet(tmp_path / "a.xlsx", "three")

    def test_no_workbook(self, tmp_path: Path) -> None:
        (tmp_path / "a.xlsx").write_bytes(b"image,dmos\n")
        with pytest.raises(DatasetError, match=r"a\.xlsx: not an Excel workbook .* \(BadZipFile: "):
            read_sheet(tmp_path / "a.xlsx", "one")

    def test_entities_are_refused(self, tmp_path: Path) -> None:
        sheet = f'<!DOCTYPE a [<!ENTITY b "bbbb">]><worksheet {MAIN}>&b;</worksheet>'
        with pytest.raises(DatasetError, match=r"sheet1\.xml: refused, XML with a document type"):
            read_sheet(self.with_sheet(tmp_path, sheet), "one")

    def test_a_sheet_that_unpacks_without_end(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(spreadsheet, "LARGEST_PART", 10_000)
        path = self.with_sheet(tmp_path, f"<worksheet {MAIN}>{' ' * 20_000}</worksheet>")
        assert path.stat().st_size < 10_000
        with pytest.raises(DatasetError, match=r"sheet1\.xml: more than 10000 bytes unpacked"):
            read_sheet(path, "one")
