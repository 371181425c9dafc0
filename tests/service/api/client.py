"""A client of the application, without a network between them."""

from typing import Any

import httpx

from service.api.app import create_app
from service.api.engine_client import Router
from service.settings import Settings
from service.store import Store


def settings(**values: Any) -> Settings:
    """Limits small enough to be crossed in a test."""
    return Settings(
        **(
            {
                "max_history": 5,
                "max_exclude": 4,
                "max_body_bytes": 2000,
                "max_catalog_body_bytes": 3000,
                "max_timeout_ms": 60_000,
            }
            | values
        )
    )


def client_of(router: Router, **values: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(settings(**values), router))
    return httpx.AsyncClient(transport=transport, base_url="http://service")


def admin_of(router: Router, store: Store, **values: Any) -> httpx.AsyncClient:
    """A client that knows the token, of an application whose Redis is that of `store`."""
    client = client_of(
        router, redis_url=store.redis.url, namespace=store.keys.namespace, admin_token="secret", **values
    )
    client.headers["Authorization"] = "bearer secret"
    return client
