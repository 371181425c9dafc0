"""`/docs`: the interface in a browser, with all that the page needs, so that it also opens where no internet is."""

from typing import Final

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles
from starlette.responses import HTMLResponse

_PATH: Final = "/docs"
_FILES: Final = "/docs-files"


def add_documentation(app: FastAPI) -> None:
    """The page names what it loads by relative addresses, which hold behind any proxy and under any prefix."""

    async def documentation() -> HTMLResponse:
        files = _FILES.removeprefix("/")
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=app.title,
            swagger_js_url=f"{files}/swagger-ui-bundle.js",
            swagger_css_url=f"{files}/swagger-ui.css",
            swagger_favicon_url=f"{files}/favicon-32x32.png",
        )

    app.get(_PATH, include_in_schema=False)(documentation)
    app.mount(_FILES, StaticFiles(packages=[("fastapi_swagger", "resources")]))
