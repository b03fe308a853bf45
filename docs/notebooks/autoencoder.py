# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # A VAE's loss: reconstruction with DAMLPIPS beside the pixels
#
# Autoencoders for image generation (VQGAN, the VAEs of latent diffusion) are trained on a pixel loss and a perceptual
# one, since pixels alone give blurred pictures. This trains a small VAE on crops of two photographs, with either
# loss.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from damlpips import DAMLPIPS
from PIL import Image
from torch import nn

DEMO = Path("docs/demo") if Path("docs/demo").is_dir() else Path("../demo")
SIDE, STEPS = 48, 250


def photo(name):
    return torch.from_numpy(np.array(Image.open(DEMO / name).convert("RGB"))).permute(2, 0, 1)[None] / 255


train, test = torch.cat([photo("landscape.png"), photo("pebbles.png")]), photo("still_life.png")


def crops(images, count, draw):
    which, rows, columns = (
        torch.randint(0, high, (count,), generator=draw)
        for high in (len(images), images.shape[2] - SIDE, images.shape[3] - SIDE)
    )
    places = zip(which, rows, columns, strict=True)
    return torch.stack([images[k, :, i : i + SIDE, j : j + SIDE] for k, i, j in places])


# %%
class Autoencoder(nn.Module):
    """48 x 48 x 3 numbers in, 12 x 12 x 8 between, the mean and the variance of each."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 32, 4, 2, 1), nn.SiLU(), nn.Conv2d(32, 64, 4, 2, 1), nn.SiLU(), nn.Conv2d(64, 16, 3, 1, 1)
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(8, 64, 3, 1, 1),
            nn.SiLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(64, 32, 3, 1, 1),
            nn.SiLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(32, 3, 5, 1, 2),
        )

    def forward(self, x):
        mean, log_variance = self.encoder(2 * x - 1).chunk(2, 1)
        code = mean + torch.randn_like(mean) * (log_variance / 2).exp() if self.training else mean
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return self.decoder(code).sigmoid(), divergence


# %% [markdown]
# `align=False`: a decoder that moves what it draws should be told. Both networks see the same crops and the same
# number of steps.

# %%
perceptual = DAMLPIPS(align=False, reduction="mean")


def fit(weight):
    torch.manual_seed(0)
    network, draw = Autoencoder().train(), torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(STEPS):
        x = crops(train, 8, draw)
        decoded, divergence = network(x)
        loss = (decoded - x).abs().mean() + 1e-4 * divergence
        if weight:
            loss = loss + weight * perceptual(decoded, x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


x = crops(test, 64, torch.Generator().manual_seed(2))
decoded = {}
with torch.no_grad():
    for name, weight in (("L1", 0.0), ("L1 and DAMLPIPS", 0.2)):
        with torch.enable_grad():
            network = fit(weight)
        decoded[name], _ = network(x)
        distance = perceptual(decoded[name], x)
        print(f"{name:16} L1 {(decoded[name] - x).abs().mean():.4f}   DAMLPIPS, place by place {distance:.3f}")

# %%
figure, axes = plt.subplots(3, 8, figsize=(12, 4.6))
for row, (name, pictures) in zip(axes, {"crops": x, **decoded}.items(), strict=True):
    for axis, picture in zip(row, pictures, strict=False):
        axis.imshow(picture.permute(1, 2, 0))
        axis.set(xticks=[], yticks=[])
    row[0].set_ylabel(name)
figure.tight_layout()

# %% [markdown]
# ![Crops, and what both networks make of them](../_static/notebooks/autoencoder-1.png)
