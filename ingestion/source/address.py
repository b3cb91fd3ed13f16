"""Web addresses: in one spelling, without their secrets, and whether an address on the network may be asked."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlencode, urljoin, urlsplit, urlunsplit

from serving.errors import DocumentError

_PORTS = {"http": 80, "https": 443}
_MAX_URL = 4096
#: Parameters that let their bearer in: signed links of the clouds, tokens.
_SECRET = frozenset(
    {"sig", "signature", "token", "access_token", "auth", "api_key", "apikey", "key", "password", "secret", "sas"}
    | {"awsaccesskeyid", "googleaccessid", "x-goog-signature", "x-goog-credential"}
)
_TRANSLATED = (ipaddress.ip_network("64:ff9b::/96"),)


@dataclass(frozen=True, slots=True)
class Address:
    """`url` is what is asked; `uri` is the same for everybody to see; `credentials` are name and password."""

    url: str = field(repr=False)
    uri: str
    credentials: tuple[str, str] | None = field(default=None, repr=False)

    @property
    def origin(self) -> str:
        """`host`, or `host:port` where the port is not the usual one."""
        return origin_of(self.url)

    @property
    def path(self) -> str:
        """Without the first slash, with the query: what patterns are about."""
        parts = urlsplit(self.uri)
        return unquote(parts.path.lstrip("/")) + (f"?{parts.query}" if parts.query else "")


def parse_address(text: str) -> Address:
    """Raises DocumentError for what is no http(s) address."""
    try:
        parts = urlsplit(text.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise DocumentError(f"not a web address: {error}") from error
    scheme = parts.scheme.lower()
    if scheme not in _PORTS or not host or len(text) > _MAX_URL or any(c <= " " for c in host):
        raise DocumentError("not a web address: it begins with http:// or https:// and a host")
    host = f"[{host}]" if ":" in host else _ascii(host)
    netloc = host if port in (None, _PORTS[scheme]) else f"{host}:{port}"
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    credentials = None
    if parts.username is not None:
        credentials = (unquote(parts.username), unquote(parts.password or ""))
    shown = urlunsplit((scheme, netloc, path, _without_secrets(query), ""))
    return Address(urlunsplit((scheme, netloc, path, query, "")), shown, credentials)


def joined(base: str, link: str) -> str:
    """A link as it stands on a page. Raises DocumentError."""
    try:
        return urljoin(base, link.strip())
    except ValueError as error:
        raise DocumentError(f"not a web address: {error}") from error


def origin_of(url: str) -> str:
    return urlsplit(url).netloc.lower()


def is_among(host: str, allowed: Collection[str]) -> bool:
    """`*.example.com` means every host below it."""
    return any(host == one or (one.startswith("*.") and host.endswith(one[1:])) for one in allowed)


def public_addresses(host: str, port: int) -> list[str]:
    """The addresses of a host, IPv4 first. Raises DocumentError if any is not public, OSError if it has none."""
    found = {str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    addresses = sorted((ipaddress.ip_address(one.split("%")[0]) for one in found), key=lambda a: (a.version, a.packed))
    for address in addresses:
        if not _public(address):
            raise DocumentError(
                f"{host} has an address that is not public, which nobody named: set "
                "ANCHORAGE_INGESTION__WEB__ALLOWED_HOSTS to allow it"
            )
    return [str(address) for address in addresses]


def _public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Also of what is written within an IPv6 address: a translator would take us there."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if any(address in network for network in _TRANSLATED):
            inner = ipaddress.IPv4Address(address.packed[-4:])
        if address.teredo is not None:
            return False
        if inner is not None:
            return _public(inner)
    return address.is_global and not address.is_multicast


def _ascii(host: str) -> str:
    try:
        return host.encode("ascii").decode().lower()
    except UnicodeEncodeError:
        pass
    try:
        return host.encode("idna").decode().lower()
    except UnicodeError as error:
        raise DocumentError(f"not a web address: {host[:80]!r} is no host's name") from error


def _without_secrets(query: str) -> str:
    pairs = parse_qsl(query, keep_blank_values=True)
    kept = [
        (name, value) for name, value in pairs if name.lower() not in _SECRET and not name.lower().startswith("x-amz-")
    ]
    return query if len(kept) == len(pairs) else urlencode(kept)
