"""What the server answers, and whom: the page, its two files, and the run as JSON; only to who has the token.

A page of another site can make a browser send requests here. It does not know the token; it cannot read an answer,
for no other origin is allowed; and a name of its own that it lets point at this machine is refused by the Host.
"""

from __future__ import annotations

import secrets
from importlib import resources
from pathlib import Path

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..reporting.markup import styles
from .following import Followed

_HOSTS = frozenset({"127.0.0.1", "localhost"})  # under any port: it may be a tunnel's
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def application(folder: Path, token: str) -> Starlette:
    """The ASGI application that serves one log under `/token/`."""
    followed = Followed(folder)

    async def page(request: Request) -> Response:
        return HTMLResponse(_asset("page.html"))

    async def style(request: Request) -> Response:
        return Response(f"{styles()}\n{_asset('page.css')}", media_type="text/css")

    async def script(request: Request) -> Response:
        return Response(_asset("page.js"), media_type="text/javascript")

    def run(request: Request) -> Response:  # not async: it reads files, so a thread does it
        answer = followed.news(request.query_params.get("have", ""))
        return (
            Response(status_code=204) if answer is None else Response(answer, media_type="application/json")
        )

    routes = [
        Route("/{token}/", page),
        Route("/{token}/page.css", style),
        Route("/{token}/page.js", script),
        Route("/{token}/run.json", run),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guarded, token=token)])


class Guarded:
    """Refuses who has no business here, and puts the headers on every answer."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        if self._admits(scope):
            await self._app(scope, receive, send_with_headers)
        else:
            await PlainTextResponse("forbidden\n", status_code=403)(scope, receive, send_with_headers)

    def _admits(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        origin = headers.get("origin")
        given = scope["path"].split("/")[1] if scope["path"].startswith("/") else ""
        return (
            host.rsplit(":", 1)[0] in _HOSTS
            and origin in (None, f"http://{host}")
            and secrets.compare_digest(given.encode(), self._token.encode())
        )


def _asset(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")
