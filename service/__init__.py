"""Serving: HTTP workers, engine processes and the supervisor that follows Redis. Nothing here imports torch."""

import models  # noqa: F401, before anything imports ONNX Runtime
