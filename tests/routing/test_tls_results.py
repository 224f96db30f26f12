"""The failures of TLS that reports count (RFC 8460 4.3), from the exceptions of a client."""

from __future__ import annotations

import datetime
import ssl
from functools import cache

import pytest
import trio
import trustme
from trio.testing import memory_stream_pair

from smtp_trio import Client, SMTPError, TlsHandshakeError
from smtp_trio.protocol import standard
from smtp_trio.routing import TlsFailure, TlsResultType
from smtp_trio.routing._tls_results import CERTIFICATE_RESULTS

HOST = "mx.example.com"
YESTERDAY = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)


@cache
def authority() -> trustme.CA:
    return trustme.CA()


def trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    return context


async def error_of(certificate: trustme.LeafCert | None, name: str = HOST) -> SMTPError:
    """Return the exception of a client whose server has this certificate; None: it does not speak TLS."""
    ours, theirs = memory_stream_pair()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    async def serve() -> None:
        if certificate is None:
            await theirs.send_all(b"220 mx.example.com ESMTP\r\n")
            return
        certificate.configure_cert(context)
        with pytest.raises(trio.BrokenResourceError):
            await trio.SSLStream(theirs, context, server_side=True).do_handshake()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with pytest.raises(TlsHandshakeError) as failed:
            async with Client(ours, host=name, tls="implicit", ssl_context=trusting(), extensions=standard()):
                pass
    return failed.value


@pytest.mark.parametrize(
    ("name", "other", "expected", "reason"),
    [
        (HOST, None, TlsResultType.CERTIFICATE_EXPIRED, "certificate has expired"),
        ("other.example", None, TlsResultType.CERTIFICATE_HOST_MISMATCH, "Hostname mismatch"),
        ("192.0.2.1", None, TlsResultType.CERTIFICATE_HOST_MISMATCH, "IP address mismatch"),
        (HOST, "authority", TlsResultType.CERTIFICATE_NOT_TRUSTED, "unable to get local issuer"),
    ],
)
async def test_certificate_that_is_not_valid(
    name: str, other: str | None, expected: TlsResultType, reason: str
) -> None:
    issuer = trustme.CA() if other else authority()
    expired = YESTERDAY if expected is TlsResultType.CERTIFICATE_EXPIRED else None
    failure = TlsFailure.from_error(
        await error_of(issuer.issue_cert(HOST, not_after=expired), name),
        sending_mta_ip="192.0.2.1",
        receiving_mx_hostname=HOST,
        receiving_mx_helo="helo.example",
        receiving_ip="2001:db8::1",
    )
    assert failure is not None
    assert failure.result_type is expected
    assert failure.reason_code is not None
    assert reason in failure.reason_code
    assert (failure.sending_mta_ip, failure.receiving_ip) == ("192.0.2.1", "2001:db8::1")
    assert (failure.receiving_mx_hostname, failure.receiving_mx_helo) == (HOST, "helo.example")


async def test_server_that_does_not_speak_tls() -> None:
    failure = TlsFailure.from_error(await error_of(None))
    assert failure is not None
    assert failure.result_type is TlsResultType.VALIDATION_FAILURE
    assert failure.reason_code in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}


async def test_connection_that_is_lost_in_the_handshake() -> None:
    ours, theirs = memory_stream_pair()
    await theirs.aclose()
    with pytest.raises(TlsHandshakeError) as failed:
        async with Client(ours, host=HOST, tls="implicit", ssl_context=trusting()):
            pass
    failure = TlsFailure.from_error(failed.value)
    assert failure is not None
    assert failure.result_type is TlsResultType.VALIDATION_FAILURE
    assert failure.reason_code


@pytest.mark.parametrize("error", [OSError("connection refused"), trio.TooSlowError(), SMTPError("421 busy")])
def test_other_errors_are_not_failures_of_tls(error: Exception) -> None:
    """RFC 8460 4.3.4."""
    assert TlsFailure.from_error(error) is None


def test_codes_are_those_of_openssl() -> None:
    """X509_V_ERR_CERT_HAS_EXPIRED, _HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH and _DANE_NO_MATCH."""
    assert sorted(CERTIFICATE_RESULTS) == [10, 62, 64, 65]
