"""A service elsewhere that is none, answers badly, or wants to send us on."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from outlive.commands import main

Answer = tuple[int, dict[str, str], bytes]
PROBLEM = {"Content-Type": "application/problem+json"}


class Other:
    """A server that answers everything in one way, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answer: Answer = (200, {}, b"[]")
        self.asked: list[tuple[str, str]] = []
        other = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                other.asked.append((self.path, self.headers.get("Authorization", "")))
                status, headers, body = other.answer
                if not status:
                    return  # it hangs up
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                self.do_GET()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Other]:
    made = Other()
    path = tmp_path / "contexts.toml"
    path.touch(0o600)
    path.write_text(f'[it]\nurl = "{made.url}/shop"\ntoken = "a-token-of-sixteen"\n')
    monkeypatch.setenv("OUTLIVE_CONTEXTS", str(path))
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        thread.join()
        made.server.server_close()


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def run(*words: str) -> tuple[int, str]:
        code = main([*words, "--context", "it"])
        told = capsys.readouterr()
        assert "a-token" not in told.out + told.err
        assert len(told.err.splitlines()) <= 1
        return code, told.err

    return run


def test_the_token_goes_to_the_path_of_the_context(
    other: Other, said: Callable[..., tuple[int, str]]
) -> None:
    assert said("node", "list")[0] == 0
    path, token = other.asked[0]
    assert path.startswith("/shop/outlive/operations/nodes?arguments=")
    assert token == "Bearer a-token-of-sixteen"


ANSWERS: dict[str, tuple[Answer, int]] = {
    "a page": ((200, {}, b"<html>"), 1),
    "JSON of another shape": ((200, {}, b'{"nodes": []}'), 1),
    "a page that is missing": ((404, {}, b"nothing here"), 1),
    "a gateway": ((502, {}, b"<html>"), 5),
    "another place": ((307, {"Location": "https://elsewhere.example/"}, b""), 1),
    "a problem": ((503, PROBLEM, b'{"code": "OL4006", "detail": "It drains."}'), 5),
    "a problem of a newer release": ((403, PROBLEM, b'{"code": "OL9999", "title": "No."}'), 4),
    "hanging up": ((0, {}, b""), 5),
}


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_what_is_no_answer_of_ours_is_one_line_and_a_code(
    name: str, other: Other, said: Callable[..., tuple[int, str]]
) -> None:
    other.answer, wanted = ANSWERS[name]
    code, line = said("node", "list")
    assert code == wanted and line.startswith("outlive: ")
    assert len(other.asked) == 1, "a redirect was followed, or it was asked again"


def test_a_change_whose_answer_is_lost_is_not_called_failed(
    other: Other, said: Callable[..., tuple[int, str]]
) -> None:
    other.answer = (0, {}, b"")
    code, line = said("limit", "reset", "daily/ada")
    assert code == 5 and "whether it was done is not known" in line


def test_what_needs_the_store_itself_is_not_sent(
    other: Other, said: Callable[..., tuple[int, str]]
) -> None:
    assert said("process", "signal", "ord_1", "paid", "--app", "shop:app")[0] == 2
    assert other.asked == []


@pytest.mark.parametrize("seconds", ["nan", "inf", "1e999"])
def test_a_number_that_json_cannot_say_is_not_sent_as_none_at_all(
    seconds: str, other: Other, said: Callable[..., tuple[int, str]]
) -> None:
    """As null it would choose every process, of whatever age."""
    which = ("--status", "stuck", "--older-than", seconds, "--yes")
    assert said("process", "cancel", *which)[0] == 2
    assert other.asked == []


def certificate(folder: Path) -> Path:
    """A certificate of `localhost` that signs itself, with its key, in one file."""
    now = datetime.now(UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = folder / "localhost.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return path


@pytest.mark.parametrize("trusted", [False, True])
def test_over_https_a_certificate_is_verified_before_the_token_is_sent(
    trusted: bool,
    other: Other,
    said: Callable[..., tuple[int, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    other.server.socket = context.wrap_socket(other.server.socket, server_side=True)
    (tmp_path / "contexts.toml").write_text(
        f'[it]\nurl = "https://localhost:{other.server.server_port}"\ntoken = "a-token-of-sixteen"'
    )
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
    code, line = said("node", "list")
    assert code == (0 if trusted else 5), line
    assert ("certificate" in line) is not trusted
    assert len(other.asked) == trusted
