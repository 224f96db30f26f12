"""Servers under load: what a message costs them."""

from __future__ import annotations

from .case import Case, Contender, Ground, Measure
from .load import Load, drive
from .servers import running

OURS = "smtp_trio"
ALL = (OURS, "floor", "aiosmtpd", "aiosmtpd on uvloop", "smtp-server", "smtp-sink")
LARGE = (OURS, "smtp_trio, newlines preserved", *ALL[1:])
SECURE = (OURS, "floor", "bare handshake", "aiosmtpd", "aiosmtpd on uvloop", "smtp-server")


def under(server: str, load: Load) -> Contender:
    """A server under a load; what it makes only once is made before it is measured."""

    def ready(ground: Ground) -> Measure:
        process = running(ground, server)
        if not ground.short:
            drive(load, process, 2 * load.sessions)
        return lambda count: drive(load, process, count)

    return ready


def case(name: str, load: Load, amount: int, short: int, servers: tuple[str, ...] = ALL) -> Case:
    """All under the same load."""
    return Case(name=name, contenders={server: under(server, load) for server in servers}, amount=amount, short=short)


MANY = Load(recipients=50, sessions=4)
PIPELINED = Load(recipients=50, sessions=4, pipelined=True)
TLS = Load(starttls=True, lone=True, size=0)
HANDSHAKE = Load(handshake=True, lone=True)

CASES = [
    case("1 KiB, 10 kept connections", Load(), 5_000, 50),
    case("1 KiB, 40 kept connections", Load(sessions=40), 5_000, 100),
    case("1 KiB, one connection a message", Load(lone=True), 2_000, 40),
    case("100 KiB, 4 kept connections", Load(size=100 << 10, sessions=4), 500, 12, LARGE),
    case("10 MiB, 2 kept connections", Load(size=10 << 20, sessions=2), 10, 2, LARGE),
    Case(
        name="50 recipients, pipelined or not",
        contenders={
            "smtp_trio, pipelined": under(OURS, PIPELINED),
            "smtp_trio, one by one": under(OURS, MANY),
            "floor, pipelined": under("floor", PIPELINED),
            "aiosmtpd, pipelined": under("aiosmtpd", PIPELINED),
            "aiosmtpd on uvloop, pipelined": under("aiosmtpd on uvloop", PIPELINED),
            "smtp-server, pipelined": under("smtp-server", PIPELINED),
            "smtp-sink, pipelined": under("smtp-sink", PIPELINED),
        },
        amount=200,
        short=8,
    ),
    Case(
        name="a session with STARTTLS and no message",
        contenders={server: under(server, HANDSHAKE if server == "bare handshake" else TLS) for server in SECURE},
        amount=600,
        short=20,
        unit="\N{MICRO SIGN}s of CPU a session",
        rate="sessions/s",
    ),
]
