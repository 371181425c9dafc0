"""Load tests, benchmarks and what starts the quickstart."""

import models  # noqa: F401, before anything imports ONNX Runtime
