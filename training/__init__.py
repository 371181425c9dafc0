"""Offline training: a dataset folder in, a served artifact out. Nothing here is imported by `service`."""

import models  # noqa: F401, before anything imports ONNX Runtime
