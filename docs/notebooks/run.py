"""Run the notebooks and store their pictures: `python docs/notebooks/run.py [FOLDER]`.

A notebook is a Python file in jupytext's percent format; `jupytext --to notebook FILE` makes one for Jupyter. What it
prints goes to NAME.txt in the folder, `docs/_static/notebooks` by default, its figures to NAME-1.png, NAME-2.png, ...
"""

import io
import runpy
import sys
from contextlib import redirect_stdout
from pathlib import Path

HERE = Path(__file__).resolve().parent
PICTURES = HERE.parent / "_static" / "notebooks"


def notebooks() -> list[Path]:
    return sorted(path for path in HERE.glob("*.py") if path.name != Path(__file__).name)


def run(notebook: Path, folder: Path) -> list[Path]:
    """Run a notebook and return the files that it made."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.close("all")
    with redirect_stdout(io.StringIO()) as printed:
        runpy.run_path(str(notebook), run_name="__main__")
    saved = [folder / f"{notebook.stem}.txt"]
    saved[0].write_text(printed.getvalue(), encoding="utf-8")
    for k, number in enumerate(plt.get_fignums(), start=1):
        saved.append(folder / f"{notebook.stem}-{k}.png")
        plt.figure(number).savefig(saved[-1], dpi=80, metadata={"Software": None})
    plt.close("all")
    return saved


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES
    folder.mkdir(parents=True, exist_ok=True)
    for notebook in notebooks():
        print(*run(notebook, folder), sep="\n")
