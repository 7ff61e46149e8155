"""Telling the outside that a process has ended: where it may be told, and how it is signed.

    notice    planned ──> pending ──> delivered · undelivered ──(asked again)──> pending

What is sent is the public representation of the process, with the headers of Standard Webhooks:
the receiver knows by them that it is ours, fresh, and whether it has seen it before. Where it is
sent is somebody's word, so an address leads only to the public internet: anything else (this host,
its network, the metadata of its cloud) is refused by name here and by address when it is used.

Reference: Standard Webhooks, https://www.standardwebhooks.com
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import quote, unquote, urlsplit

from msgspec import Struct

from outlive.errors import NotifyRefused
from outlive.steps import Retry

URL_CHARACTERS_MAX = 2000
SECRETS_MAX = 8
SECRET_BYTES_MIN, SECRET_BYTES_MAX = 24, 64
RETRY = Retry(attempts=20, base_seconds=5.0, cap_seconds=6 * 3600.0)
"""How often the end of a process is told before it is given up: over about a day."""
_SECRET = "whsec_"
_NO_URL = re.compile(r'[^!-~]|["<>\\^`{|}]')
_NAT64 = IPv6Network("64:ff9b::/96")
_UNICAST = IPv6Network("2000::/3")
"""All of IPv6 that is given to the public internet."""
_SPECIAL = tuple(
    ip_network(one)
    for one in (
        "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24"
        " 192.0.2.0/24 192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24"
        " 224.0.0.0/3 2001::/23 2001:db8::/32 2002::/16 3fff::/20"
    ).split()
)
"""What IANA keeps for special purposes; releases of Python differ in what they know of it."""
_LOCAL_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost")


class Webhooks:
    """How the ends of processes are told to the outside.

    `secrets`: 1 to 8 of the form `whsec_` and base64 of 24 to 64 bytes; each delivery is signed
    with all of them, so that they can be changed one by one. `hosts`: names that may be told
    (`hooks.example.org`, `*.example.org`); empty: any on the public internet. `retry`: how often
    and how far apart. `timeout_seconds` (above 0): for one delivery. `allow_loopback`: for
    development only, also `http` to this host. `ca_file`: who is trusted beside the system's
    authorities.
    """

    __slots__ = ("_keys", "allow_loopback", "ca_file", "hosts", "retry", "timeout_seconds")

    def __init__(
        self,
        secrets: Sequence[str],
        *,
        hosts: Sequence[str] = (),
        retry: Retry = RETRY,
        timeout_seconds: float = 10.0,
        allow_loopback: bool = False,
        ca_file: str | None = None,
    ) -> None:
        if isinstance(secrets, str) or not 1 <= len(secrets) <= SECRETS_MAX:
            raise ValueError(f"secrets is a list of 1 to {SECRETS_MAX}")
        if isinstance(hosts, str):  # its characters would be names, and `*` every name
            raise ValueError(f"hosts is a list of names; write hosts=[{hosts!r}]")
        if timeout_seconds <= 0:
            raise ValueError(f"timeout_seconds is {timeout_seconds}; it must be above 0")
        self._keys = [_key_in(secret) for secret in secrets]
        self.hosts = tuple(host.lower() for host in hosts)
        self.retry = retry
        self.timeout_seconds = timeout_seconds
        self.allow_loopback = allow_loopback
        self.ca_file = ca_file

    def __repr__(self) -> str:
        return f"<Webhooks with {len(self._keys)} secrets>"

    def headers(self, id: str, seconds: int, body: bytes) -> dict[str, str]:
        """The headers of Standard Webhooks for the delivery `id` of `body` at `seconds` since
        1970."""
        signed = f"{id}.{seconds}.".encode() + body
        made = (base64.b64encode(hmac.digest(key, signed, "sha256")) for key in self._keys)
        return {
            "webhook-id": id,
            "webhook-timestamp": str(seconds),
            "webhook-signature": " ".join(f"v1,{one.decode()}" for one in made),
        }

    def target(self, url: str) -> Target:
        """Where `url` leads. Raises `NotifyRefused` when nobody may be told there."""
        found = _parse(url)
        if self.hosts and not any(fnmatchcase(found.host, known) for known in self.hosts):
            raise NotifyRefused(f"The host {found.host[:100]} is not one of those that are told.")
        address = _literal(found.host)
        local = found.host in _LOCAL_NAMES or found.host.endswith(".localhost")
        loopback = local or (address is not None and address.is_loopback)
        if not (self.allow_loopback and loopback):
            if found.scheme != "https":
                raise NotifyRefused("The address is not https.")
            if local or (address is not None and not self.may_reach(address)):
                raise NotifyRefused("The address does not lead to the public internet.")
        return found

    def may_reach(self, address: IPv4Address | IPv6Address) -> bool:
        """Whether a connection may be made to `address`."""
        return is_public(address) or (self.allow_loopback and _plain(address).is_loopback)


class Target(Struct, frozen=True):
    """Where something is told, in the parts that are needed to do it."""

    scheme: str
    host: str
    port: int
    path: str
    """With the query."""
    authorization: str = ""


class NoticeView(Struct, frozen=True):
    """How it stands with telling the end of a process; its address without what is secret in it."""

    url: str
    status: str
    """planned · pending · delivered · undelivered"""
    attempts: int
    said: str
    """What came of the last attempt, in a word or two."""
    due: int | None
    """When it is told next; None when it is not."""


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether `address` is one of the public internet: not of a host, a link, a private network, a
    tunnel that leads to one, or reserved."""
    plain = _plain(address)
    if isinstance(plain, IPv6Address) and plain not in _UNICAST:
        return False
    return plain.is_global and not any(plain in special for special in _SPECIAL)


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that is written as an IPv6 one, if it is."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def masked(url: str) -> str:
    """`url` without a user and without the values of its query, as it may be shown."""
    try:
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        return "…"
    user = "…@" if "@" in parts.netloc else ""
    query = "?…" if parts.query else ""
    return f"{parts.scheme}://{user}{host}{port}{parts.path}{query}"


def _parse(url: str) -> Target:
    if len(url) > URL_CHARACTERS_MAX:
        raise NotifyRefused(f"The address has more than {URL_CHARACTERS_MAX} characters.")
    if _NO_URL.search(url):
        raise NotifyRefused("The address has characters that belong into no address.")
    try:
        parts = urlsplit(url)
        port, host = parts.port, (parts.hostname or "").rstrip(".")
        host.encode("idna")
    except ValueError:  # of which UnicodeError is one
        raise NotifyRefused("The address cannot be read.") from None
    if parts.scheme not in ("https", "http") or not host or parts.fragment or port == 0:
        raise NotifyRefused("The address is not https, or has no host, or has a fragment.")
    authorization = ""
    if parts.username is not None or parts.password is not None:
        pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(pair.encode()).decode()
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = f"?{parts.query}" if parts.query else ""
    usual = 443 if parts.scheme == "https" else 80
    return Target(parts.scheme, host, port or usual, path + query, authorization)


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _key_in(secret: str) -> bytes:
    """The key in a secret; what is wrong with one is said without it."""
    try:
        key = base64.b64decode(secret.removeprefix(_SECRET), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(_SECRET) or not SECRET_BYTES_MIN <= len(key) <= SECRET_BYTES_MAX:
        raise ValueError(
            f"a secret is {_SECRET} and base64 of {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes"
        )
    return key
