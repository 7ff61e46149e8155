"""An end is told only where it may be told, and signed so that anybody can check it."""

from __future__ import annotations

import base64
import hashlib
from ipaddress import ip_address

import pytest

from outlive import Retry, Webhooks
from outlive.errors import NotifyRefused
from outlive.kinds.processes.webhooks import is_public, masked

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + base64.b64encode(b"another key of 24 bytes!").decode()


def hmac_sha256(key: bytes, text: bytes) -> bytes:
    """RFC 2104, written out."""
    key = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(one ^ 0x36 for one in key) + text).digest()
    return hashlib.sha256(bytes(one ^ 0x5C for one in key) + inner).digest()


def test_it_is_signed_as_standard_webhooks_says() -> None:
    """The example of the specification's own test suites."""
    body = b'{"test": 2432232314}'
    made = Webhooks([SECRET]).headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert made == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_it_is_signed_with_every_secret() -> None:
    made = Webhooks([SECRET, OTHER]).headers("msg_1", 5, b"{}")["webhook-signature"].split(" ")
    for secret, signature in zip((SECRET, OTHER), made, strict=True):
        key = base64.b64decode(secret.removeprefix("whsec_"))
        assert signature == "v1," + base64.b64encode(hmac_sha256(key, b"msg_1.5.{}")).decode()


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        "whsec_c2hvcnQ=",
        "whsec_***",
        SECRET.removeprefix("whsec_"),
        "whsec_" + "A" * 400,
    ],
)
def test_a_bad_secret_is_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(ValueError, match="a secret is") as found:
        Webhooks([secret])
    assert len(secret) < 8 or secret not in str(found.value)
    with pytest.raises(ValueError, match="1 to 8"):
        Webhooks([])
    with pytest.raises(ValueError, match="1 to 8"):
        Webhooks(SECRET)
    assert SECRET not in repr(Webhooks([SECRET]))


PRIVATE = (
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.8.8.8",
    "169.254.0.1", "169.254.169.254", "169.254.170.2", "172.16.0.1", "172.31.255.255",
    "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.168.1.1", "198.18.0.1", "198.51.100.7",
    "203.0.113.7", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1",
    "2002:7f00:1::", "2002:a9fe:a9fe::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1",
    "ff02::1",
)  # fmt: skip
PUBLIC = ("1.1.1.1", "8.8.8.8", "93.184.215.14", "2606:4700:4700::1111", "2a00:1450:4001::1",
          "::ffff:8.8.8.8", "64:ff9b::808:808")  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_nothing_is_sent_to_an_address_that_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))
    host = f"[{address}]" if ":" in address else address
    for url in (f"https://{host}/hook", f"https://{host}:8443/hook"):
        with pytest.raises(NotifyRefused):
            Webhooks([SECRET]).target(url)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_reached(address: str) -> None:
    assert is_public(ip_address(address))
    host = f"[{address}]" if ":" in address else address
    assert Webhooks([SECRET]).target(f"https://{host}/hook").host == address


@pytest.mark.parametrize(
    "url",
    [
        "", "hook", "//example.org", "http://example.org/", "ftp://example.org/", "https://",
        "https:///hook", "https://localhost/", "https://LOCALHOST./", "https://a.localhost/",
        "https://example.org:0/", "https://example.org:99999/", "https://example.org:x/",
        "https://example.org/#part", "https://example.org/\r\nHost: inner", "https://exa mple.org/",
        "https://example.org/ü", "https://[::1/", "https://[fe80::1%25eth0]/",
        "https://example.org\\@127.0.0.1/", "https://" + "a" * 70 + ".org/",
        "https://example.org/" + "x" * 2000, "javascript:alert(1)", "file:///etc/passwd",
        "https://127.0.0.1:443@[::1]/", "https://user:password@127.0.0.1/",
    ],
)  # fmt: skip
def test_what_is_no_address_to_tell_is_refused(url: str) -> None:
    with pytest.raises(NotifyRefused) as found:
        Webhooks([SECRET]).target(url)
    assert "password" not in found.value.detail


def test_an_address_is_taken_apart() -> None:
    target = Webhooks([SECRET]).target("https://ann:se%3Acret@Hooks.Example.org./a%20b/c?x=1&y=%2F")
    assert (target.scheme, target.host, target.port) == ("https", "hooks.example.org", 443)
    assert target.path == "/a%20b/c?x=1&y=%2F"
    assert base64.b64decode(target.authorization.removeprefix("Basic ")) == b"ann:se:cret"
    assert Webhooks([SECRET]).target("https://example.org:8443").port == 8443


def test_one_text_is_no_list_of_hosts() -> None:
    """Its characters would be patterns, and `*` one that lets every host through."""
    with pytest.raises(ValueError, match="hosts is a list"):
        Webhooks([SECRET], hosts="*.example.org")


def test_only_named_hosts_are_told_when_some_are_named() -> None:
    hooks = Webhooks([SECRET], hosts=["hooks.example.org", "*.partner.example"])
    for url in ("https://hooks.example.org/", "https://a.partner.example/x"):
        hooks.target(url)
    for url in (
        "https://example.org/",
        "https://partner.example/",
        "https://hooks.example.org.evil.example/",
        "https://hooks.example.org@evil.example/",
        "https://8.8.8.8/",
    ):
        with pytest.raises(NotifyRefused):
            hooks.target(url)


def test_this_host_is_told_in_development_only() -> None:
    hooks = Webhooks([SECRET], allow_loopback=True)
    for url in ("http://127.0.0.1:8000/", "http://localhost:8000/", "http://[::1]:8000/"):
        hooks.target(url)
    for url in ("http://example.org/", "http://10.0.0.1/", "https://169.254.169.254/"):
        with pytest.raises(NotifyRefused):
            hooks.target(url)
    assert not hooks.may_reach(ip_address("10.0.0.1"))
    assert hooks.may_reach(ip_address("::ffff:127.0.0.1"))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://example.org/hook", "https://example.org/hook"),
        ("https://ann:secret@example.org:8443/a?token=secret", "https://…@example.org:8443/a?…"),
        ("https://[2606:4700::1]/a", "https://[2606:4700::1]/a"),
        ("https://[broken/secret", "…"),
    ],
)
def test_what_is_secret_in_an_address_is_not_shown(url: str, shown: str) -> None:
    assert masked(url) == shown


def test_a_delivery_is_tried_for_about_a_day_on_average() -> None:
    retry = Webhooks([SECRET]).retry
    waits = [
        min(retry.cap_seconds, retry.base_seconds * 2**n) / 2 for n in range(retry.attempts - 1)
    ]
    assert 6 * 3600 < sum(waits) < 3 * 86_400
    assert Webhooks([SECRET], retry=Retry(attempts=1)).retry.attempts == 1
    with pytest.raises(ValueError, match="timeout_seconds"):
        Webhooks([SECRET], timeout_seconds=0)
