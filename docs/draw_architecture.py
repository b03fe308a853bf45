"""Draw docs/_static/architecture.svg: the packages of damlpips, their modules, and who imports whom.

    python docs/draw_architecture.py

Everything in the picture is read: the order of the rows from the contract in pyproject.toml, the modules and their
imports from the source (by grimp, import-linter's library), the sentences from the docstrings.
"""

import ast
import re
import textwrap
from dataclasses import dataclass
from html import escape
from pathlib import Path

import grimp

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "damlpips"
PICTURE = ROOT / "docs" / "_static" / "architecture.svg"

WIDTH, MARGIN, HEADER = 800, 12, 84
BOX = 470  # width of a package's box
CELL = 22  # distance of two columns of dots
LINE = 15  # distance of two lines of text
GAP = 6  # between two boxes
LETTERS = 66  # that fit on one line of a box in a wide font
STYLE = """
text { font: 12px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2933 }
.name { font-weight: 700; font-size: 13px }
.modules { fill: #52606d; font-size: 11px }
.box { fill: #f5f7fa; stroke: #9aa5b1 }
.grid { stroke: #e4e7eb }
.self { fill: #cbd2d9 }
.down { fill: #2563a8 }
.up { fill: #d64545 }
"""


@dataclass(frozen=True)
class Part:
    """A package, or a module beside the packages."""

    name: str
    sentence: str
    modules: tuple[str, ...]
    imports: frozenset[str]

    @property
    def lines(self) -> list[tuple[str, str]]:
        """The lines of text in its box, each with its class; the name stands before the first."""
        first, *more = textwrap.wrap(f"{self.name}:{self.sentence}", LETTERS)
        modules = textwrap.wrap(", ".join(self.modules), LETTERS + 6)
        return [
            ("sentence", first.removeprefix(f"{self.name}:")),
            *(("sentence", line) for line in more),
            *(("modules", line) for line in modules),
        ]


def order() -> list[str]:
    """Return the parts from the top of the layers down."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (layers,) = (contract["layers"] for contract in contracts["contracts"] if contract["type"] == "layers")
    return [name.strip() for layer in layers for name in re.split(r"[|:]", layer)]


def first_sentence(file: Path) -> str:
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(re.split(r"(?<=[.:])\s*\n\s*\n|(?<=\.)\s", text, maxsplit=1)[0].split())


def read_parts() -> list[Part]:
    """Read the parts from the source, in the order of the layers."""
    graph = grimp.build_graph("damlpips", exclude_type_checking_imports=True, cache_dir=None)
    parts = []
    for name in order():
        folder = SOURCE / name
        own = {f"damlpips.{name}", *graph.find_descendants(f"damlpips.{name}")}
        imported = {top for module in own for top in _tops(graph.find_modules_directly_imported_by(module))} - {name}
        modules = (
            f"{child.name}/" if child.is_dir() else child.stem
            for child in sorted(folder.glob("[a-z]*"))
            if child.suffix == ".py" or (child / "__init__.py").exists()
        )
        file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
        parts.append(Part(name, first_sentence(file), tuple(modules), frozenset(imported)))
    return parts


def _tops(modules: set[str]) -> set[str]:
    return {module.split(".")[1] for module in modules if "." in module}


def draw(parts: list[Part]) -> str:
    """Return the picture as SVG: a row for each part, with a dot in the column of each part that it imports."""
    rank = {part.name: k for k, part in enumerate(parts)}
    columns = {part.name: BOX + MARGIN + CELL * (k + 1) for k, part in enumerate(parts)}
    marks, y = [], HEADER
    for part in parts:
        height = LINE * len(part.lines) + 12
        middle = y + height / 2
        marks.append(f'<rect class="box" x="{MARGIN}" y="{y}" width="{BOX}" height="{height}" rx="4"/>')
        for k, (kind, line) in enumerate(part.lines):
            name = "" if k else f'<tspan class="name">{part.name}</tspan>&#160;&#160;'
            marks.append(text(MARGIN + 10, y + LINE * (k + 1) + 1, name + escape(line), kind))
        marks.append(f'<path class="grid" d="M{MARGIN + BOX} {middle}H{max(columns.values())}"/>')
        marks.append(
            f'<rect class="self" x="{columns[part.name] - 6}" y="{middle - 6}" width="12" height="12" rx="2"/>'
        )
        for name in sorted(part.imports, key=rank.__getitem__):
            direction = "down" if rank[name] > rank[part.name] else "up"
            marks.append(f'<circle class="{direction}" cx="{columns[name]}" cy="{middle}" r="5.5"/>')
        y += height + GAP
    heads = [text(MARGIN + 10, HEADER - 10, "Each row imports what its dots stand under.", "name")]
    for name, x in columns.items():
        heads.append(f'<path class="grid" d="M{x} {HEADER - 4}V{y - GAP}"/>')
        heads.append(f'<g transform="translate({x + 4} {HEADER - 8}) rotate(-60)">{text(0, 0, name, "column")}</g>')
    size = f'viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}"'
    paper = '<rect width="100%" height="100%" fill="#fff"/>'
    start = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{STYLE}</style>\n{paper}'
    return "\n".join([start, *heads, *marks, "</svg>\n"])


def text(x: float, y: float, content: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x}" y="{y}">{content}</text>'


if __name__ == "__main__":
    PICTURE.write_text(draw(read_parts()), encoding="utf-8")
    print(f"wrote {PICTURE}")
