"""Where requests to a chat server may go, with which key, and how much may come back.

A message may leave this machine only on the way that its study names. So no environment variable sends it through a
proxy or adds a header, plain http goes to this machine alone, whatever a name in the address looks like, and a redirect
is an error. What comes back is read up to a limit, counted after decompression: a server may send without end.
"""

import ipaddress
import os
import socket
from urllib.parse import SplitResult, urlsplit

import httpx2
import openai

from emosafe_lib.study.errors import ServerError

OPENAI = "https://api.openai.com/v1"
LARGEST_BODY = 4 * 2**20  # bytes; an answer with the log-probabilities of 400 tokens has a fifth of it
# OPENAI_CUSTOM_HEADERS, OPENAI_ORG_ID and what the client tells of this machine stay here.
HEADERS = {"host", "authorization", "accept", "content-type", "content-length", "transfer-encoding", "idempotency-key"}
OF_TRANSFER = {"content-encoding", "content-length", "transfer-encoding"}


def api_key() -> str:
    """The key from `OPENAI_API_KEY`, the only place it is ever read from; it is never shown.

    Raises
    ------
    ServerError : no key, or one that cannot be sent in a header
    """
    key = os.environ.get("OPENAI_API_KEY", "")
    if not key:
        raise ServerError("OPENAI_API_KEY", "is not set", "export it in the shell that runs the study")
    if not key.isascii() or not key.isprintable() or " " in key:
        remedy = "copy the key again; it is plain ASCII without spaces"
        raise ServerError("OPENAI_API_KEY", "holds characters that no key has", remedy)
    return key


def looks_like_key(name: str) -> bool:
    """Whether a name that a server gives holds the key, or is a part of it."""
    key = os.environ.get("OPENAI_API_KEY", "").lower()
    return bool(key) and (key in name.lower() or name.lower() in key)


def check_address(base_url: str | None, where: str = "augmentation.base_url") -> str:
    """The server's address; refused where it carries a password or would send texts unencrypted across networks.

    Raises
    ------
    ServerError : not such an address
    """
    url = base_url or OPENAI
    parts = split(url)
    if not parts.hostname or parts.username or parts.password or parts.query or parts.fragment:
        remedy = "give scheme, host, port and path only, as in http://localhost:8000/v1"
        raise ServerError(where, "is not a plain web address", remedy)
    if parts.scheme == "http" and not is_here(url):
        remedy = "use https; plain http is for this machine, where a tunnel such as ssh -L can end"
        raise ServerError(where, "would send messages unencrypted", remedy)
    return url


def split(url: str) -> SplitResult:
    """The parts of a web address, none of them where it is malformed; numbers of the octal kind are."""
    try:
        parts = urlsplit(url)
        fits = url.isascii() and parts.scheme in ("http", "https") and parts.port != 0 and bool(httpx2.URL(url).host)
    except (ValueError, httpx2.InvalidURL):
        fits = False
    return parts if fits else urlsplit("")


def is_here(url: str) -> bool:
    """Whether everything that an address stands for is this machine; names and odd numbers are resolved."""
    host = urlsplit(url).hostname
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        addresses = [ipaddress.ip_address(where[0].partition("%")[0]) for *_, where in found]
    except (OSError, ValueError):  # a UnicodeError, which a host can cause, is a ValueError
        return False
    return all((getattr(each, "ipv4_mapped", None) or each).is_loopback for each in addresses)


def client_options(base_url: str | None, where: str, attempt_seconds: float, proxy: str | None = None) -> dict:
    """Arguments of `open_client`. A server on this machine may do without a key, and no proxy stands before it.

    Parameters
    ----------
    where : the parameter that holds `base_url`, named in an error
    attempt_seconds : how long one try may take

    Raises
    ------
    ServerError : no usable key or address
    """
    address = check_address(base_url, where)
    here = is_here(address)
    key = "none" if here and not os.environ.get("OPENAI_API_KEY") else api_key()
    through = check_proxy(proxy, where) if proxy and not here else None
    return {"api_key": key, "base_url": address, "max_retries": 0, "timeout": attempt_seconds, "proxy": through}


def check_proxy(proxy: str, where: str) -> str:
    """A proxy's address, http or https; ServerError for another. It sees which server is asked, not what for."""
    try:
        fits = httpx2.URL(proxy).scheme in ("http", "https") and not httpx2.URL(proxy).userinfo
    except httpx2.InvalidURL:
        fits = False
    if not fits:
        raise ServerError(where.replace("base_url", "proxy"), "is not a proxy's address", "write http://host:port")
    return proxy


def open_client(proxy: str | None = None, largest_body: int = LARGEST_BODY, **options) -> openai.AsyncOpenAI:
    """The official client over `Wire`; it never tries again by itself, `client` decides that.

    Parameters
    ----------
    options : see `client_options`
    """
    wire = Wire(largest_body, proxy=proxy, trust_env=False, limits=httpx2.Limits())
    return openai.AsyncOpenAI(**options, http_client=httpx2.AsyncClient(transport=wire, trust_env=False))


class Oversized(httpx2.TransportError):
    """A body was larger than any answer is."""


class Wire(httpx2.AsyncHTTPTransport):
    """A transport that reads bodies whole, but none that decodes to more than `largest_body` bytes."""

    def __init__(self, largest_body: int, **options):
        super().__init__(**options)
        self.largest_body = largest_body

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request without the environment's headers and read its answer; Oversized if that is too much."""
        headers = [(n, v) for n, v in request.headers.multi_items() if n.lower() in HEADERS]
        options = {"stream": request.stream, "extensions": request.extensions}
        response = await super().handle_async_request(
            httpx2.Request(request.method, request.url, headers=headers, **options)
        )
        body = bytearray()
        try:
            async for part in response.aiter_bytes():
                body += part
                if len(body) > self.largest_body:
                    raise Oversized("the body is too large")
        finally:
            await response.aclose()
        headers = [(n, v) for n, v in response.headers.multi_items() if n.lower() not in OF_TRANSFER]
        return httpx2.Response(response.status_code, headers=headers, content=bytes(body))
