"""`/docs` opens where no internet is, and behind any prefix."""

import re
from urllib.parse import urljoin

import pytest

from service.api.engine_client import Router

from .client import client_of

pytestmark = pytest.mark.anyio
PAGE = "http://test/docs"


async def test_the_page_loads_nothing_from_elsewhere(router: Router) -> None:
    async with client_of(router) as client:
        page = await client.get("/docs")
        assert page.status_code == 200
        assert "://" not in page.text
        named = re.findall(r'(?:src|href)="([^"]+)"', page.text) + re.findall(r"url: '([^']+)'", page.text)
        assert len(named) == 4
        for address in named:
            assert not address.startswith("/")
            got = await client.get(urljoin(PAGE, address))
            assert (got.status_code, bool(got.content)) == (200, True), address


async def test_the_framework_s_other_page_is_off(router: Router) -> None:
    async with client_of(router) as client:
        assert (await client.get("/redoc")).status_code == 404
        assert (await client.get("/docs-files/none.js")).status_code == 404
