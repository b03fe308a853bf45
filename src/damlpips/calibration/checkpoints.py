"""Checkpoints that are written whole or not at all: after a failure the one before is still there."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from damlpips.calibration.learner import FitError
from damlpips.files import reason, replacing


class WholeCheckpoints(TorchCheckpointIO):
    """What Lightning writes checkpoints with: beside the file first, which is then replaced.

    Lightning's own writes to a temporary folder, and a copy from there to a full disk leaves half a file.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            FitError: it cannot be written.
        """
        content = io.BytesIO()
        torch.save(checkpoint, content)
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with replacing(Path(path)) as whole:
                whole.write_bytes(content.getbuffer())
        except OSError as error:
            raise FitError(f"checkpoints: {path}: {reason(error)}") from error
