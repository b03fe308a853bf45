"""Speed and memory of this package beside `lpips`, torchmetrics, piq and pyiqa, and beside the bare network."""

import os

# The profiler writes two lines to stderr for each call whose memory it counts; read when PyTorch is loaded.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
