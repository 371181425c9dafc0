"""What a trained PRORec model *is*: codes, trie, reference beam search, artifact, and the network in torch.

Everything here but `network`, `search_graph` and `quantizer` is numpy only, so that serving never imports torch.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when ONNX Runtime is imported; on by default, on Linux too
