"""Lay out some of the demo images as methods are laid out: a folder of references, and one for each method.

python docs/demo/methods.py FOLDER
"""

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SCENES = ("landscape", "pebbles", "still_life")
METHODS = ("jpeg_q30.jpg", "jpeg_q8.jpg", "blur_1.5.png", "noise_15.png")


def main(folder: Path) -> None:
    """Copy the images."""
    for scene in SCENES:
        copy(HERE / f"{scene}.png", folder / "reference" / f"{scene}.png")
        for method in map(Path, METHODS):
            copy(HERE / scene / method, folder / method.stem / f"{scene}{method.suffix}")


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("expected a folder")
    main(Path(sys.argv[1]))
