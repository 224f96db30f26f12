"""`TlsFiles`: the certificates of a server, in files that can be read again."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

from attrs import Attribute, field, frozen

from ..protocol.arguments import argument, check_choice, check_type
from ..protocol.der import dns_names
from ..protocol.sasl.channel_binding import server_end_point

TlsVersion = Literal["1.2", "1.3"]
ClientCertificate = Literal["never", "optional", "required"]

VERSIONS: Mapping[TlsVersion, ssl.TLSVersion] = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
VERIFY_MODES: Mapping[ClientCertificate, ssl.VerifyMode] = {
    "never": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}
#: The first certificate in a file is that of the server; those of authorities follow (RFC 8446 4.4.2).
PEM_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
#: What OpenSSL calls a key that is not the certificate's.
MISMATCHES = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")

#: The channel binding of the certificate of each context that was made here. OpenSSL has the certificate, but Python's ssl
#: module does not return it.
_bindings: MutableMapping[ssl.SSLContext, bytes] = WeakKeyDictionary()

PathName = str | os.PathLike[str]
CertificateFiles = PathName | tuple[PathName, PathName | None]


def _pairs(value: object) -> tuple[tuple[str, str], ...]:
    """Return the files of each certificate and of its key. A single name stands for a file that has both."""
    if isinstance(value, (str, os.PathLike)):
        value = [value]
    if not isinstance(value, Sequence) or not value:
        raise TypeError("certificates must be a list of files, or of pairs of a certificate's file and its key's")
    pairs = []
    for each in value:
        cert, key = (each, None) if isinstance(each, (str, os.PathLike)) else each
        pairs.append((os.fspath(cert), os.fspath(key if key is not None else cert)))
    return tuple(pairs)


# Several certificates
#
# A context has one certificate (and others of other types of keys), so there is a context for each. A handshake begins
# with the first one; OpenSSL calls `_select` when it has read the name that the client has sent (SNI, RFC 6066 3), and
# continues with the context that is chosen there. Only the certificate changes with it: what is asked of the client
# stays that of the first context, and therefore all have the same.
#
# An unknown name is answered with the first certificate, as mail servers do: many clients send none or a wrong one,
# and with opportunistic TLS the certificate does not matter (RFC 7435). Clients that verify the name will notice.
#
# The names are those in the certificates, which need not be configured again. The ssl module returns the names of a
# certificate only after a handshake, so they are read from its encoding.
@frozen
class TlsFiles:
    """The files that a server's TLS context is made of. `Server` reads them, and `Server.reload_tls` reads them again.

    :param certificates: the file of a certificate with its chain and its key, in PEM; or a list of such files, or of
        pairs of a certificate's file and its key's. Of several certificates, the one for the name that the client sends
        is used (SNI, RFC 6066 3), and the first one if none has that name.
    :param minimum: the lowest version of TLS, "1.2" or "1.3".
    :param client_certificate: whether a client is asked for a certificate: "never", "optional" or "required". A
        certificate must be valid. It is then in ``session.tls.client_certificate``.
    :param client_ca: the file with the certificates of the authorities for those of clients, in PEM. It is required
        unless ``client_certificate`` is "never".
    """

    certificates: tuple[tuple[str, str], ...] = field(converter=_pairs)
    minimum: TlsVersion = field(default="1.2", kw_only=True, validator=argument(check_choice, tuple(VERSIONS)))
    client_certificate: ClientCertificate = field(
        default="never", kw_only=True, validator=argument(check_choice, get_args(ClientCertificate))
    )
    client_ca: PathName | None = field(default=None, kw_only=True)

    @client_ca.validator
    def _check_client_ca(self, _: Attribute[Any], value: object) -> None:
        check_type(value, "client_ca", (str, os.PathLike), optional=True)
        if (value is None) != (self.client_certificate == "never"):
            raise ValueError('client_ca must be given if client_certificate is not "never", and only then')

    def load(self) -> ssl.SSLContext:
        """Read the files and return a new context.

        A new one each time, since a context can hold certificates of several types of keys: an old RSA one would stay
        in use beside a new ECDSA one. A context whose certificate failed to load cannot be used any more.

        :raises OSError: a file cannot be read.
        :raises ValueError: a file has no certificate or no unencrypted key, or the key is not that of the certificate.
        """
        contexts = []
        for cert, key in self.certificates:
            context, certificate = self._load(cert, key), _read_certificate(cert)
            _bindings[context] = server_end_point(certificate)
            contexts.append((context, dns_names(certificate)))
        first, _ = contexts[0]
        if len(contexts) > 1:

            def select(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
                if name is not None:
                    wanted = name.lower()
                    matching = (context for context, names in contexts if _is_for(names, wanted))
                    connection.context = next(matching, first)

            first.sni_callback = select
        return first

    def _load(self, cert: str, key: str) -> ssl.SSLContext:
        for path in (cert, key):
            with open(path, "rb"):  # OpenSSL's error would not name the file
                pass
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = VERSIONS[self.minimum]
        try:
            context.load_cert_chain(cert, key, password="")  # without a password OpenSSL would ask at the terminal
        except ssl.SSLError as error:
            if error.reason in MISMATCHES:
                raise ValueError(f"the key in {key} does not match the certificate in {cert}") from None
            raise ValueError(f"cannot load a certificate from {cert} and an unencrypted key from {key}") from None
        if self.client_ca is not None:
            context.verify_mode = VERIFY_MODES[self.client_certificate]
            try:
                context.load_verify_locations(self.client_ca)
            except ssl.SSLError:
                raise ValueError(f"no certificate in {os.fspath(self.client_ca)}") from None
            except OSError as error:
                raise OSError(error.errno, error.strerror, os.fspath(self.client_ca)) from None
        return context


def _read_certificate(cert: str) -> bytes:
    """Return the certificate in a file, which has been loaded as one, in DER."""
    with open(cert, encoding="latin-1") as file:
        found = PEM_CERTIFICATE.search(file.read())
    return ssl.PEM_cert_to_DER_cert(found[0]) if found else b""


def channel_binding(connection: ssl.SSLObject) -> bytes:
    """Return the binding to the certificate that a server has sent in a handshake (RFC 5929 4).

    It is b"" if the certificate is not from `TlsFiles`.
    """
    return _bindings.get(connection.context, b"")


def _is_for(names: Sequence[str], wanted: str) -> bool:
    """Return whether a certificate with these names is for a host: a wildcard stands for one label (RFC 9525 6.3)."""
    return wanted in names or f"*.{wanted.partition('.')[2]}" in names
