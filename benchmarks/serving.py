"""Servers under load: the cost of a message."""

from __future__ import annotations

from .case import Case, Contender, Environment, Measure
from .load import Load, measure_load
from .servers import shared_server

SMTP_TRIO = "smtp_trio"
ALL = (SMTP_TRIO, "floor", "aiosmtpd", "aiosmtpd on uvloop", "smtp-server", "smtp-sink")
LARGE = (SMTP_TRIO, "smtp_trio, newlines preserved", *ALL[1:])
SECURE = (SMTP_TRIO, "floor", "bare handshake", "aiosmtpd", "aiosmtpd on uvloop", "smtp-server")


def under_load(server: str, load: Load) -> Contender:
    """Return a contender: a server under a load. What it creates only once is created before the measurement."""

    def ready(env: Environment) -> Measure:
        process = shared_server(env, server)
        if not env.short:
            measure_load(load, process, 2 * load.sessions)
        return lambda count: measure_load(load, process, count)

    return ready


def case(name: str, load: Load, amount: int, short: int, servers: tuple[str, ...] = ALL) -> Case:
    """Return a case with all servers under the same load."""
    return Case(
        name=name, contenders={server: under_load(server, load) for server in servers}, amount=amount, short=short
    )


MANY = Load(recipients=50, sessions=4)
PIPELINED = Load(recipients=50, sessions=4, pipelined=True)
TLS = Load(starttls=True, reconnect=True, size=0)
HANDSHAKE = Load(handshake=True, reconnect=True)

CASES = [
    case("1 KiB, 10 kept connections", Load(), 5_000, 50),
    case("1 KiB, 40 kept connections", Load(sessions=40), 5_000, 100),
    case("1 KiB, one connection per message", Load(reconnect=True), 2_000, 40),
    case("1 KiB, 10 kept connections, no wake-ups", Load(polling=True), 5_000, 50),
    # Without smtp-server, whose pause before the greeting determines how long this takes.
    case(
        "1 KiB, one connection per message, no wake-ups",
        Load(polling=True, reconnect=True),
        2_000,
        40,
        (SMTP_TRIO, "floor", "aiosmtpd", "aiosmtpd on uvloop", "smtp-sink"),
    ),
    case("100 KiB, 4 kept connections", Load(size=100 << 10, sessions=4), 500, 12, LARGE),
    case("10 MiB, 2 kept connections", Load(size=10 << 20, sessions=2), 10, 2, LARGE),
    Case(
        name="50 recipients, pipelined or not",
        contenders={
            "smtp_trio, pipelined": under_load(SMTP_TRIO, PIPELINED),
            "smtp_trio, one by one": under_load(SMTP_TRIO, MANY),
            "floor, pipelined": under_load("floor", PIPELINED),
            "aiosmtpd, pipelined": under_load("aiosmtpd", PIPELINED),
            "aiosmtpd on uvloop, pipelined": under_load("aiosmtpd on uvloop", PIPELINED),
            "smtp-server, pipelined": under_load("smtp-server", PIPELINED),
            "smtp-sink, pipelined": under_load("smtp-sink", PIPELINED),
        },
        amount=200,
        short=8,
    ),
    Case(
        name="a session with STARTTLS and no message",
        contenders={server: under_load(server, HANDSHAKE if server == "bare handshake" else TLS) for server in SECURE},
        amount=600,
        short=20,
        unit="\N{MICRO SIGN}s of CPU per session",
        rate="sessions/s",
    ),
]
