"""The options of ``smtp-trio send --mx``, which sends to the exchangers of the recipients' domains."""

from __future__ import annotations

import argparse
import ipaddress
import re

from .options import UsageError, number_between

#: A name server: an IP address, and a port. An IPv6 address with a port is in brackets.
RESOLVER = re.compile(
    r"\[(?P<ipv6>[0-9A-Fa-f:.]+)\](?::(?P<port6>[0-9]{1,5}))?|(?P<ipv4>[0-9.]+)(?::(?P<port4>[0-9]{1,5}))?"
)
DNS_PORT = 53


def add_mx(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument_group("delivery to the exchangers of domains").add_argument
    # fmt: off
    add("--mx", action="store_true",
        help="instead of --server, send to the exchangers of each recipient's domain, as their MX records name them, at the "
             "same time. Needs the extra dns: pip install 'smtp-trio[dns]'")
    add("--resolver", metavar="ADDRESS[:PORT]", dest="resolvers", type=resolver_option, action="append", default=[],
        help="name server to ask, with an IPv6 address in brackets if there is a port. Repeatable, in the order in which they "
             "are asked (default: those of the system)")
    add("--trust-resolver", action="store_true",
        help="believe the name servers of --resolver that they have validated answers by DNSSEC (their AD bit). Those on "
             "loopback addresses are believed without it")
    add("--dane", choices=("opportunistic", "required", "never"),
        help="opportunistic: authenticate the exchangers that have TLSA records; required: use no others; never: ignore the "
             "records (default: opportunistic)")
    add("--no-mta-sts", action="store_true",
        help="ignore the MTA-STS policies of domains")
    add("--own", metavar="NAME|ADDRESS", action="append", default=[],
        help="a name or IP address of this host, to which nothing is sent, nor to exchangers that are not more preferred. "
             "Repeatable")
    add("--port", metavar="PORT", type=number_between(int, 65535, 1),
        help="port of the exchangers (default: 25)")
    add("--max-domains", metavar="N", type=number_between(int, 10_000, 1),
        help="how many domains to deliver to at the same time (default: 100)")
    add("--loopback", action="store_true",
        help="use exchangers with loopback addresses, for tests; otherwise these belong to this host")
    # fmt: on


def resolver_option(text: str) -> tuple[str, int]:
    """Return the address and port that a value of ``--resolver`` means."""
    match = RESOLVER.fullmatch(text)
    address, port = text, DNS_PORT
    if match is not None:
        address = match["ipv6"] or match["ipv4"]
        port = int(match["port6"] or match["port4"] or DNS_PORT)
    try:
        if not 0 < port < 65536:
            raise ValueError(port)
        return str(ipaddress.ip_address(address)), port
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be IPv4, IPv4:PORT, IPv6 or [IPv6]:PORT, with a port from 1 to 65535, got {text!r}"
        ) from None


def check_mx(options: argparse.Namespace) -> None:
    """Raise UsageError for options that cannot be combined."""
    others = {
        "--server": options.server,
        "--lmtp": options.lmtp,
        "--tls": options.tls,
        "--user": options.user,
        "--allow-cleartext": options.allow_cleartext,
    }
    dependent = {
        "--resolver": options.resolvers,
        "--trust-resolver": options.trust_resolver,
        "--dane": options.dane,
        "--no-mta-sts": options.no_mta_sts,
        "--own": options.own,
        "--port": options.port,
        "--max-domains": options.max_domains,
        "--loopback": options.loopback,
    }
    for option, given in (others if options.mx else dependent).items():
        if given:
            raise UsageError(f"{option} cannot be combined with --mx" if options.mx else f"{option} requires --mx")
    if options.trust_resolver and not options.resolvers:
        raise UsageError("--trust-resolver requires --resolver")
