"""This package's LPIPS compared with the values published for the original: a Markdown table.

    python benchmarks/published.py FOLDER

FOLDER holds `golden/lpips/{ref_dir,dist_dir}/*.bmp`, `golden/lpips/ex_{ref,p0,p1}.png` and
`weights/*_features.safetensors`. Exits with 1 if a value differs in its last published digit.
"""

import os
import sys
from pathlib import Path

import torch

from damlpips import LPIPS
from damlpips.scoring.images import read_image

# file, backbone, published value, digits after the point, source
CALIBRATION = "IQA-PyTorch's calibration table"
ORIGINAL = "the original code"
PUBLISHED = [
    ("I03", "alex", "0.7237", CALIBRATION),
    ("I04", "alex", "0.2572", CALIBRATION),
    ("I06", "alex", "0.05079", CALIBRATION),
    ("I08", "alex", "0.05205", CALIBRATION),
    ("I19", "alex", "0.4253", CALIBRATION),
    ("ex_ref, ex_p0", "alex", "0.722", "README of the original"),
    ("ex_ref, ex_p1", "alex", "0.138", "README of the original"),
    ("ex_ref, ex_p0", "alex", "0.7218807", ORIGINAL),
    ("ex_ref, ex_p1", "alex", "0.1375656", ORIGINAL),
    ("ex_ref, ex_p0", "squeeze", "0.7110476", ORIGINAL),
    ("ex_ref, ex_p1", "squeeze", "0.1479016", ORIGINAL),
]


def pair(folder: Path, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    if "," in name:
        files = [folder / f"{part}.png" for part in name.split(", ")]
    else:
        files = [folder / "ref_dir" / f"{name}.bmp", folder / "dist_dir" / f"{name}.bmp"]
    first, second = (read_image(file)[None] for file in files)
    return first, second


def main(folder: Path) -> int:
    os.environ["DAMLPIPS_WEIGHTS_DIR"] = str(folder / "weights")
    models = {name: LPIPS(name) for name in ("alex", "squeeze")}
    wrong = 0
    print("| images | backbone | published | here | source |\n|---|---|---|---|---|")
    for name, backbone, published, source in PUBLISHED:
        with torch.inference_mode():
            value = float(models[backbone](*pair(folder / "golden" / "lpips", name)))
        here = f"{value:.{len(published.partition('.')[2])}f}"
        wrong += here != published
        print(f"| {name} | {backbone} | {published} | {here} | {source} |")
    return int(wrong > 0)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1])))
