"""Offline training: a dataset folder in, a served artifact out. Nothing here is imported by `service`."""
