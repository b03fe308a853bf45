r"""DAMLPIPS Model.

Differentiable Adaptive Multi-Layer LPIPS, by the package `damlpips`: how different two images look. What has moved is
found first and aligned; then the pair itself decides how much each position, channel and layer of a network counts.

Refer to:
    The documentation of `damlpips`, "What the scores are", for the equations and the agreement with people.

"""

import torch.nn as nn

from pyiqa.utils.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register()
class DAMLPIPS(nn.Module):
    r"""DAMLPIPS model. It has no parameters of its own to load: the network's weights come from `damlpips`.

    Args:
        backbone (String): ['nano', 'alex', 'vgg', 'squeeze']. The weights of 'nano' come with `damlpips`, those of the
            others with torchvision.
        kwargs: further options of `damlpips.DAMLPIPS`.

    """

    def __init__(self, backbone='nano', **kwargs):
        super().__init__()
        try:
            from damlpips.adapters.pyiqa_networks import DamlpipsNet
        except ModuleNotFoundError as error:
            # of the package itself, and not of something that it needs
            if error.name != 'damlpips':
                raise
            raise ModuleNotFoundError(
                'The metric damlpips needs the package damlpips: pip install damlpips', name=error.name
            ) from error

        self.net = DamlpipsNet(backbone=backbone, **kwargs)

    def forward(self, x, y):
        r"""Computation of DAMLPIPS.

        Args:
            x: An input tensor. Shape :math:`(N, C, H, W)`, with values in [0, 1].
            y: A reference tensor. Shape :math:`(N, C, H, W)`.

        Returns:
            Quality score, lower is closer. Shape :math:`(N, 1)`.

        """
        return self.net(x, y)
