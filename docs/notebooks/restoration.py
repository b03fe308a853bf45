# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # Restoration: super-resolution trained with and without DAMLPIPS
#
# A network trained on pixels alone is safe and blurred: where it is not sure, it averages. Here two equal networks
# enlarge the same crops three times, one trained on L1, one on L1 and DAMLPIPS. Both are judged on a picture that
# neither has seen, by PSNR, by DAMLPIPS and by a metric that neither was trained on.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from damlpips import DAMLPIPS, LPIPS
from PIL import Image
from torch import nn
from torch.nn import functional as F

DEMO = Path("docs/demo") if Path("docs/demo").is_dir() else Path("../demo")
FACTOR, STEPS, CROP = 3, 150, 48


def photo(name):
    return torch.from_numpy(np.array(Image.open(DEMO / name).convert("RGB"))).permute(2, 0, 1)[None] / 255


train, test = torch.cat([photo("landscape.png"), photo("pebbles.png")]), photo("still_life.png")

# %% [markdown]
# The loss is on what the network returns, in [0, 1] or a little outside: `check_values=False` says that this is
# meant. `align=False` compares place with place: the network has no business moving anything.

# %%
perceptual = DAMLPIPS(align=False, reduction="mean", check_values=False)


def shrunk(x):
    small = F.interpolate(x, scale_factor=1 / FACTOR, mode="bicubic", antialias=True)
    return F.interpolate(small, size=x.shape[2:], mode="bicubic")


def enlarger():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU()]
    for _ in range(2):
        layers += [nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(32, 3, 3, padding=1))


def fit(weight):
    network, draw = enlarger(), torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(STEPS):
        rows = torch.randint(0, train.shape[2] - CROP, (8,), generator=draw)
        columns = torch.randint(0, train.shape[3] - CROP, (8,), generator=draw)
        which = torch.randint(0, len(train), (8,), generator=draw)
        places = zip(which, rows, columns, strict=True)
        sharp = torch.stack([train[k, :, i : i + CROP, j : j + CROP] for k, i, j in places])
        blurred = shrunk(sharp)
        restored = blurred + network(blurred)
        loss = F.l1_loss(restored, sharp)
        if weight:
            loss = loss + weight * perceptual(restored, sharp)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


# %%
pictures = {"bicubic": shrunk(test).clamp(0, 1)}
for name, weight in (("L1", 0.0), ("L1 and DAMLPIPS", 0.1)):
    network = fit(weight)
    with torch.no_grad():
        pictures[name] = (shrunk(test) + network(shrunk(test))).clamp(0, 1)

damlpips, judge = DAMLPIPS(), LPIPS("nano", heads="uniform")  # LPIPS("alex"), if you have its weights
print(f"{'':16} {'PSNR':>6} {'DAMLPIPS':>9} {'LPIPS':>7}")
for name, picture in pictures.items():
    psnr = -10 * torch.log10(F.mse_loss(picture, test)).item()
    with torch.no_grad():
        print(f"{name:16} {psnr:6.2f} {damlpips(picture, test).item():9.3f} {judge(picture, test).item():7.3f}")

# %% [markdown]
# The perceptual term costs a little PSNR, and brings the picture nearer to the original for both other metrics.

# %%
figure, axes = plt.subplots(1, 4, figsize=(12, 3.4))
for axis, (name, picture) in zip(axes, {**pictures, "original": test}.items(), strict=True):
    axis.imshow(picture[0, :, 60:140, 20:116].permute(1, 2, 0))
    axis.set_title(name)
    axis.axis("off")
figure.tight_layout()

# %% [markdown]
# ![The bicubic picture, both restored ones and the original](../_static/notebooks/restoration-1.png)
