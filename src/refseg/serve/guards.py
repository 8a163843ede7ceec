"""Who may ask, and how much at once: what the paths of the application depend on."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBasic, HTTPBasicCredentials, HTTPBearer

from refseg.serve.service import Service

__all__ = ["admitted", "limited", "password_needed", "token_needed"]


def token_needed(service: Service) -> list[Any]:
    """Return what a path depends on that needs the token of the server, if there is one."""
    token = service.settings.token
    if token is None:
        return []

    async def check(sent: HTTPAuthorizationCredentials | None = Depends(HTTPBearer(auto_error=False))) -> None:  # noqa: B008
        if sent is None or not _equal(sent.credentials, token):
            raise HTTPException(
                401, "send the token of this server: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"}
            )

    return [Depends(check)]


def password_needed(service: Service) -> list[Any]:
    """Return what a path depends on that needs the token as a password, with any name of a user."""
    token = service.settings.token
    if token is None:
        return []

    async def check(sent: HTTPBasicCredentials | None = Depends(HTTPBasic(auto_error=False))) -> None:  # noqa: B008
        if sent is None or not _equal(sent.password, token):
            raise HTTPException(401, "send the token of this server as the password", {"WWW-Authenticate": "Basic"})

    return [Depends(check)]


def admitted(service: Service) -> list[Any]:
    """Return what a path depends on that counts as a request within the limits of the server."""

    async def admit(request: Request) -> AsyncIterator[None]:
        with service.admitted(request.client.host if request.client else ""):
            yield

    return [Depends(admit)]


def limited(service: Service) -> list[Any]:
    """Return what a path depends on that needs the token, and counts as a request within the limits of the server."""
    return [*token_needed(service), *admitted(service)]


def _equal(sent: str, token: str) -> bool:
    """Return whether two texts are equal; the time that it takes says nothing of where they differ."""
    return hmac.compare_digest(sent.encode(), token.encode())
