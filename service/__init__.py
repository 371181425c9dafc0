"""Serving: HTTP workers, engine processes and the supervisor that follows Redis. Nothing here imports torch."""
