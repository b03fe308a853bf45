"""From images to feature maps: the networks, their weights and their geometry.

Imports `ops` and the plain modules. A new backbone is a row of `table.BACKBONES` and a card in `weights/cards.toml`;
tests then ask for its rows in the README, `docs/how-to/offline.md` and `docs/how-to/huge-images.md`.
"""
