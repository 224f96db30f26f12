"""SASL (RFC 4422): the mechanisms by which a client proves its identity. `mechanism` describes how they work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:
    from .channel_binding import server_end_point as server_end_point
    from .credentials import (
        AnonymousCredentials as AnonymousCredentials,
        Authenticated as Authenticated,
        BearerToken as BearerToken,
        ClientCredentials as ClientCredentials,
        Computation as Computation,
        Credentials as Credentials,
        ExternalCredentials as ExternalCredentials,
        PasswordCredentials as PasswordCredentials,
        Secret as Secret,
        SecretRequest as SecretRequest,
    )
    from .known import MECHANISMS as MECHANISMS
    from .mechanism import (
        INVALID_CREDENTIALS as INVALID_CREDENTIALS,
        MALFORMED_CREDENTIALS as MALFORMED_CREDENTIALS,
        AuthenticationFailedError as AuthenticationFailedError,
        ClientExchange as ClientExchange,
        Mechanism as Mechanism,
        MechanismContext as MechanismContext,
        RandomBytes as RandomBytes,
        ServerExchange as ServerExchange,
        acknowledge_failure as acknowledge_failure,
        check_credentials as check_credentials,
        choose_mechanism as choose_mechanism,
        decode_challenge as decode_challenge,
        decode_text as decode_text,
        decode_user as decode_user,
        expect_challenge as expect_challenge,
        expect_success as expect_success,
        usable_mechanisms as usable_mechanisms,
    )
    from .scram_secret import ScramHash as ScramHash, ScramSecret as ScramSecret

#: The public names, by module; see `lazy_names`.
_MODULES = {
    "channel_binding": "server_end_point",
    "credentials": (
        "AnonymousCredentials Authenticated BearerToken ClientCredentials Computation Credentials ExternalCredentials "
        "PasswordCredentials Secret SecretRequest"
    ),
    "known": "MECHANISMS",
    "mechanism": (
        "INVALID_CREDENTIALS MALFORMED_CREDENTIALS AuthenticationFailedError ClientExchange Mechanism MechanismContext "
        "RandomBytes ServerExchange acknowledge_failure check_credentials choose_mechanism decode_challenge decode_text "
        "decode_user expect_challenge expect_success usable_mechanisms"
    ),
    "scram_secret": "ScramHash ScramSecret",
}

__all__ = [name for names in _MODULES.values() for name in names.split()]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, _MODULES)
