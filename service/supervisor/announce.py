"""What the supervisor prints: one line when it is ready, and one if it waits for a model."""

from functools import partial

from .engine import Engine


class Announce:
    """Two lines for a person at a terminal, or for the log of a container."""

    def __init__(self, address: str, redis: str) -> None:
        self.address = address
        self._redis = redis
        self._print = partial(print, flush=True)

    def ready(self, engine: Engine) -> None:
        info = engine.route.info
        model = (
            f"model {engine.version} on {info.provider}{'' if info.precision == 'fp32' else f' in {info.precision}'}"
        )
        self._print(f"PRORec Serve is ready at {self.address}: {model}, Redis {self._redis}")

    def idle(self) -> None:
        hint = "publish one (python -m service publish DIR) and activate it (python -m service activate VERSION)"
        self._print(f"PRORec Serve waits at {self.address}: no model is active in Redis {self._redis}; {hint}")
