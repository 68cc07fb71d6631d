"""Who is answered: this machine alone, or whoever holds the token; never another site's page."""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes, urlencode, urlsplit

from starlette.responses import PlainTextResponse, RedirectResponse

LOOPBACK = ("127.0.0.1", "localhost", "::1")
COOKIE = "vader_studio"
#: What every request that changes something must carry: another site's page cannot send it unasked.
HEADER = b"x-vader-studio"

_HEADERS = {
    b"content-security-policy": b"default-src 'none'; script-src 'self'; style-src 'self'; "
    b"img-src 'self' data:; media-src 'self'; connect-src 'self'; frame-src 'self'; form-action 'self'; "
    b"base-uri 'none'; frame-ancestors 'self'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), microphone=(), geolocation=()",
}


class Guard:
    """Refuses, before anything else is looked at.

    Args:
        app: What is guarded.
        hosts: Names that requests may be addressed to; empty allows any, where a token is asked for.
        token: Needed where it is given.
    """

    def __init__(self, app: Any, *, hosts: Iterable[str], token: str | None) -> None:
        self.app, self.token = app, token
        self.hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        if "raw_path" in scope:  # a folder's name need not be UTF-8
            scope = {**scope, "path": os.fsdecode(unquote_to_bytes(scope["raw_path"]))}

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                added = [(name, value) for name, value in _HEADERS.items() if name not in given]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        refused = self._refusal(scope, headers)
        app = self.app if refused is None else refused
        await app(scope, receive, guarded)

    def _refusal(self, scope: Any, headers: dict[bytes, bytes]) -> Any:
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self.hosts and _name(host) not in self.hosts:
            return PlainTextResponse("this address is not the studio's", 421)
        changes = scope["method"] not in ("GET", "HEAD")
        if changes and not _is_own(headers, host):
            return PlainTextResponse("a page of another site asked for this", 403)
        site = headers.get(b"sec-fetch-site", b"none")
        if site not in (b"same-origin", b"none") and headers.get(b"sec-fetch-mode") != b"navigate":
            return PlainTextResponse("a page of another site asked for this", 403)
        return self._token_refusal(scope, headers)

    def _token_refusal(self, scope: Any, headers: dict[bytes, bytes]) -> Any:
        if self.token is None:
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"))
        given = dict(query).get("token")
        if given is not None and scope["method"] == "GET" and _equal(given, self.token):
            rest = urlencode([pair for pair in query if pair[0] != "token"])
            answer = RedirectResponse(f"{scope['path']}{'?' if rest else ''}{rest}", 303)
            answer.set_cookie(COOKIE, self.token, httponly=True, samesite="strict", path="/")
            return answer
        if _equal(_cookie(headers), self.token):
            return None
        return PlainTextResponse("a token is needed: open the address that `vader studio` printed", 401)


def _is_own(headers: dict[bytes, bytes], host: str) -> bool:
    """Whether a page of the studio itself asked."""
    if HEADER not in headers:
        return False
    if headers.get(b"sec-fetch-site", b"same-origin") != b"same-origin":
        return False
    origin = headers.get(b"origin")
    return origin is None or urlsplit(origin.decode("latin-1")).netloc.lower() == host


def _name(host: str) -> str:
    """A host's name without its port."""
    return urlsplit(f"//{host}").hostname or "" if host else ""


def _equal(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


def _cookie(headers: dict[bytes, bytes]) -> str:
    try:
        found = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None else ""
