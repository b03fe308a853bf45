# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # Compression: bytes against what people see
#
# Three codecs at many qualities, the bytes of each file and how far its picture is from the original: a rate-
# distortion curve with DAMLPIPS in place of PSNR, and the smallest file of each codec below .2, a difference that one
# has to look for.

# %%
import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from damlpips import DAMLPIPS
from PIL import Image, features

DEMO = Path("docs/demo") if Path("docs/demo").is_dir() else Path("../demo")
original = Image.open(DEMO / "still_life.png").convert("RGB")
QUALITIES = (5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95)
CODECS = [codec for codec in ("JPEG", "WEBP", "AVIF") if codec == "JPEG" or features.check(codec.lower())]


def tensor(image):
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def compressed(codec, quality):
    file = io.BytesIO()
    original.save(file, codec, quality=quality)
    return len(file.getvalue()), tensor(Image.open(file))


# %% [markdown]
# The original goes through the network once: `encode` keeps its feature maps for all candidates. Candidates go in as
# one batch.

# %%
metric = DAMLPIPS()
curves = {}
with torch.no_grad():
    reference = metric.encode(tensor(original)[None])
    for codec in CODECS:
        sizes, pictures = zip(*(compressed(codec, quality) for quality in QUALITIES), strict=True)
        curves[codec] = sizes, metric(torch.stack(pictures), reference).tolist(), pictures

print(f"{'':6} {'quality':>7} {'bytes':>7} {'DAMLPIPS':>9}")
for codec, (sizes, scores, _) in curves.items():
    near = [k for k, score in enumerate(scores) if score < 0.2]
    k = near[0] if near else len(QUALITIES) - 1
    print(f"{codec:6} {QUALITIES[k]:7} {sizes[k]:7} {scores[k]:9.3f}")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2))
for codec, (sizes, scores, pictures) in curves.items():
    bits = np.array(sizes) * 8 / (original.width * original.height)
    squared = [((p.double() - tensor(original)) / 255).square().mean().item() for p in pictures]
    left.plot(bits, scores, "o-", label=codec)
    right.plot(bits, -10 * np.log10(squared), "o-", label=codec)
left.axhline(0.2, color="grey", linewidth=0.8)
left.set(xscale="log", xlabel="bits a pixel", ylabel="DAMLPIPS (lower is closer)")
right.set(xscale="log", xlabel="bits a pixel", ylabel="PSNR (dB)")
left.legend()
figure.tight_layout()

# %% [markdown]
# ![DAMLPIPS and PSNR against bits a pixel](../_static/notebooks/compression-1.png)
