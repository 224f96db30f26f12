"""The options of ``smtp-trio serve`` that name networks."""

from __future__ import annotations

import argparse

import pytest

from smtp_trio._cli.network_option import network_option


@pytest.mark.parametrize("text", ["192.0.2.1", "10.0.0.0/8", "fd00::/64", "unix"])
def test_network(text: str) -> None:
    assert network_option(text) == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("mx.test", "'mx.test' does not appear to be an IPv4 or IPv6 network"),
        ("10.0.0.1/8", "10.0.0.1/8 has host bits set"),
    ],
)
def test_invalid_network(text: str, problem: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        network_option(text)
    assert str(caught.value) == problem
