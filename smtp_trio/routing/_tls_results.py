"""Why TLS failed, in the terms of TLS reports (RFC 8460 4.3)."""

from __future__ import annotations

import enum
import ssl
from typing import Final

from attrs import field, frozen

from .._client.results import TlsHandshakeError

#: Characters after which texts from servers and from libraries are cut.
MAX_TEXT = 500


class TlsResultType(enum.Enum):
    """Why a session did not comply with a policy (RFC 8460 4.3). The values are those of reports."""

    #: The exchanger does not offer STARTTLS.
    STARTTLS_NOT_SUPPORTED = "starttls-not-supported"
    #: The certificate is not for a name that the policy allows.
    CERTIFICATE_HOST_MISMATCH = "certificate-host-mismatch"
    #: The certificate has expired.
    CERTIFICATE_EXPIRED = "certificate-expired"
    #: The certificate is not trusted for another reason, such as an unknown authority.
    CERTIFICATE_NOT_TRUSTED = "certificate-not-trusted"
    #: Any other failure.
    VALIDATION_FAILURE = "validation-failure"
    #: DANE: none of the TLSA records is valid.
    TLSA_INVALID = "tlsa-invalid"
    #: DANE: the resolver returned no valid records.
    DNSSEC_INVALID = "dnssec-invalid"
    #: DANE: the sender requires it, and TLSA records are missing.
    DANE_REQUIRED = "dane-required"
    #: MTA-STS: the policy could not be fetched.
    STS_POLICY_FETCH_ERROR = "sts-policy-fetch-error"
    #: MTA-STS: the policy is invalid.
    STS_POLICY_INVALID = "sts-policy-invalid"
    #: MTA-STS: the policy host was not authenticated by its certificate.
    STS_WEBPKI_INVALID = "sts-webpki-invalid"


#: The types of certificate errors, by their X509_V_ERR code of OpenSSL: expired; another host name, another IP address,
#: and no TLSA record that matches. Others are "not trusted".
CERTIFICATE_RESULTS: Final = {
    10: TlsResultType.CERTIFICATE_EXPIRED,
    62: TlsResultType.CERTIFICATE_HOST_MISMATCH,
    64: TlsResultType.CERTIFICATE_HOST_MISMATCH,
    65: TlsResultType.CERTIFICATE_HOST_MISMATCH,
}


def find_tls_error(error: BaseException) -> ssl.SSLError | None:
    """Return the error of the TLS library that is the cause of ``error``; None without one."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def _text(value: str | None) -> str | None:
    """Return ``value`` without surrogates, which I-JSON does not allow (RFC 7493 2.1), and not too long."""
    return None if value is None else value[:MAX_TEXT].encode("utf-8", "replace").decode()


@frozen
class TlsFailure:
    """One failure of a session (RFC 8460 4.4, ``failure-details``). Equal failures are counted together.

    ``sending_mta_ip`` and ``receiving_ip`` are the addresses of the two ends, ``receiving_mx_hostname`` is the name of
    the exchanger, and ``receiving_mx_helo`` the name in its reply to EHLO. ``reason_code`` is an error code or
    message, and ``additional_information`` a URI. Texts are cut after 500 characters.
    """

    result_type: TlsResultType
    reason_code: str | None = field(default=None, converter=_text)
    sending_mta_ip: str | None = None
    receiving_mx_hostname: str | None = field(default=None, converter=_text)
    receiving_mx_helo: str | None = field(default=None, converter=_text)
    receiving_ip: str | None = None
    additional_information: str | None = field(default=None, converter=_text)

    @classmethod
    def from_error(
        cls,
        error: BaseException,
        *,
        sending_mta_ip: str | None = None,
        receiving_mx_hostname: str | None = None,
        receiving_mx_helo: str | None = None,
        receiving_ip: str | None = None,
    ) -> TlsFailure | None:
        """Return the failure that an exception amounts to; None if it is not one of TLS.

        A `smtp_trio.TlsHandshakeError` is one, and so is an exception that an `ssl.SSLError` has caused. Errors of the
        network are not reported (RFC 8460 4.3.4).
        """
        cause = find_tls_error(error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            result_type = CERTIFICATE_RESULTS.get(cause.verify_code, TlsResultType.CERTIFICATE_NOT_TRUSTED)
            reason = cause.verify_message
        elif cause is not None:
            result_type, reason = TlsResultType.VALIDATION_FAILURE, cause.reason or str(cause)
        elif isinstance(error, TlsHandshakeError):
            result_type, reason = TlsResultType.VALIDATION_FAILURE, str(error)
        else:
            return None
        return cls(
            result_type,
            reason,
            sending_mta_ip=sending_mta_ip,
            receiving_mx_hostname=receiving_mx_hostname,
            receiving_mx_helo=receiving_mx_helo,
            receiving_ip=receiving_ip,
        )


#: The failure of an exchanger of which no TLSA record can authenticate it (RFC 8460 4.3.2.1).
UNUSABLE_RECORDS: Final = TlsFailure(TlsResultType.TLSA_INVALID, "no TLSA record is usable")
#: The failure of an exchanger that the MTA-STS policy of the domain does not name (RFC 8461 4.1).
NOT_ALLOWED: Final = TlsFailure(TlsResultType.CERTIFICATE_HOST_MISMATCH, "the policy does not name the exchanger")
