"""The type of the options of ``smtp-trio serve`` that name networks."""

from __future__ import annotations

import argparse

from .._server.proxies import PeerNetworks


def network_option(text: str) -> str:
    """Return a network that `Server` takes: an address, a network or "unix"."""
    try:
        PeerNetworks([text], "network")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("network: ")) from None
    return text
