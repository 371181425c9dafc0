"""Who may change things: whoever knows the token."""

import hmac
from collections.abc import Callable
from typing import Annotated

from fastapi import Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.errors import AdminDenied, AdminOff


def token_check(token: str | None) -> Callable[..., None]:
    """A dependency that raises AdminOff without a token of this replica, AdminDenied for another than it."""
    bearer = HTTPBearer(auto_error=False, description="PROREC_ADMIN_TOKEN of this replica")

    def check(credentials: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]) -> None:
        if token is None:
            raise AdminOff("the admin interface is off; setting PROREC_ADMIN_TOKEN turns it on")
        if credentials is None:
            raise AdminDenied("this needs the header 'Authorization: Bearer TOKEN'")
        if not hmac.compare_digest(credentials.credentials.encode(), token.encode()):
            raise AdminDenied("the admin token is wrong")

    return check
