"""What a trained PRORec model *is*: codes, trie, reference beam search, artifact, and the network in torch.

Only `network`, `quantizer` and the `search_*` modules import torch, and serving imports none of them.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when ONNX Runtime is imported; on by default, on Linux too
