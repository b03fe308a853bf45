"""Images to feature maps: the networks, their weights and their geometry.

Imports `ops` and the plain modules. A new backbone is a row of `table.BACKBONES`, with a card in `weights/cards.toml`.
"""
