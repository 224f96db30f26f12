"""REQUIRETLS, DELIVERBY, FUTURERELEASE, MT-PRIORITY and RRVS: what the sender wants done with a message."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from smtp_trio.protocol import (
    ClientProtocol,
    Command,
    Ehlo,
    Extension,
    LocalProtocolError,
    Mail,
    NotOfferedError,
    Param,
    Params,
    Path,
    Rcpt,
    Reply,
    standard,
)
from smtp_trio.protocol.extensions import DeliverBy, FutureRelease, MtPriority, RequireRecipientValidSince, RequireTls
from smtp_trio.protocol.extensions.deliverby import BY, EXPIRED, ByTime
from smtp_trio.protocol.extensions.eightbitmime import BODY
from smtp_trio.protocol.extensions.futurerelease import HOLDFOR, HOLDUNTIL, QUOTA_EXCEEDED, release_time
from smtp_trio.protocol.extensions.mt_priority import (
    MT_PRIORITY,
    TOO_BIG_FOR_PRIORITY,
    TOO_LOW,
    TOO_LOW_NOW,
    ChangedPriority,
)
from smtp_trio.protocol.extensions.requiretls import REQUIRETLS, TLS_NEEDED, tls_optional
from smtp_trio.protocol.extensions.rrvs import (
    CANNOT_TEST,
    DOMAIN_OWNER_CHANGED,
    OWNER_CHANGED,
    RRVS,
    ValidSince,
    is_role_account,
)
from smtp_trio.protocol.params import make_params

from .driver import HELLO, SENDER, ServerDriver, codes, refuse_no_and_later

NOW = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
DAY = 86400
FUTURE = FutureRelease(86400)


def begun(*extensions: Extension, user: str | None = "fred", **settings: Any) -> ServerDriver:
    """Return a driver after EHLO, inside TLS; ``user`` has authenticated."""
    driver = ServerDriver(extensions=standard(*extensions), secure=True, **settings).begin()
    if user is not None:
        driver.protocol.set_authenticated(user)
    return driver


def mail(driver: ServerDriver, params: str) -> str:
    """Send MAIL with parameters; return the code and status of the reply."""
    return codes(driver.send_lines(f"{SENDER} {params}"))[0]


def mail_params(driver: ServerDriver) -> Params:
    assert driver.protocol.state.mail is not None
    return driver.protocol.state.mail.params


def client(*lines: str, verified: bool = True) -> ClientProtocol:
    """Return a client to which a server has offered these extensions."""
    protocol = ClientProtocol()
    protocol.verified = verified
    protocol.receive_data(b"220 mx.test\r\n")
    protocol.next_event()
    protocol.send_command(Ehlo("client.test"))
    protocol.receive_data("".join(f"250-{line}\r\n" for line in ("mx.test", *lines)).encode() + b"250 HELP\r\n")
    protocol.next_event()
    protocol.data_to_send()
    return protocol


def with_params(values: dict[Param[Any], Any]) -> Mail:
    return Mail(Path("me@client.test", "me", "client.test"), Params(values))


# --- REQUIRETLS, RFC 8689 --------------------------------------------------------------------------------------------


def test_requiretls_is_offered_inside_tls_only() -> None:
    plain = ServerDriver(extensions=standard(RequireTls()))
    assert "REQUIRETLS" not in plain.send_lines(HELLO)[1]
    assert mail(plain, "REQUIRETLS") == "555 5.5.4"
    inside = ServerDriver(extensions=standard(RequireTls()), secure=True)
    assert "REQUIRETLS" in inside.send_lines(HELLO)[1].replace("-", " ").split()


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ("REQUIRETLS", "250 2.1.0"), ("requiretls SIZE=5", "250 2.1.0"), ("REQUIRETLS=x", "501 5.5.4"),
        ("REQUIRETLS=", "501 5.5.4"), ("REQUIRETLS REQUIRETLS", "501 5.5.4"),
    ],
)  # fmt: skip
def test_requiretls_has_no_value(params: str, expected: str) -> None:
    driver = begun(RequireTls())
    assert mail(driver, params) == expected
    if expected[0] == "2":
        assert mail_params(driver)[REQUIRETLS] is True


def test_client_requires_a_verified_name_for_requiretls() -> None:
    command = with_params({REQUIRETLS: True})
    assert client("REQUIRETLS").encode_command(command) == b"MAIL FROM:<me@client.test> REQUIRETLS\r\n"
    assert client("REQUIRETLS", verified=False).encode_command(with_params({})) == b"MAIL FROM:<me@client.test>\r\n"
    with pytest.raises(NotOfferedError, match="verified server name") as caught:
        client("REQUIRETLS", verified=False).send_command(command)
    assert caught.value.status == "5.7.10"
    with pytest.raises(NotOfferedError, match="verified server name") as caught:
        client(verified=False).send_command(command)  # a server offers it inside TLS only
    assert caught.value.status == "5.7.10"
    with pytest.raises(NotOfferedError, match="does not offer the parameter REQUIRETLS") as caught:
        client().send_command(command)
    assert caught.value.status == "5.7.30"
    assert (TLS_NEEDED.code, TLS_NEEDED.status) == (550, "5.7.10")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [(["No"], True), ([" nO "], True), ([], False), (["Yes"], False), (["No", "No"], False), (["Nope"], False)],
)
def test_tls_required_field(fields: list[str], expected: bool) -> None:
    assert tls_optional(Params(), fields) == expected
    assert not tls_optional(Params({REQUIRETLS: True}), fields)


# --- DELIVERBY, RFC 2852 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("120;R", ByTime(120, "R")), ("+120;r", ByTime(120, "R")), ("-30;N", ByTime(-30, "N")),
        ("600;NT", ByTime(600, "N", trace=True)), ("0;N", ByTime(0, "N")), ("999999999;Rt", ByTime(999999999, "R", trace=True)),
    ],
)  # fmt: skip
def test_by(value: str, expected: ByTime) -> None:
    driver = begun(DeliverBy())
    assert mail(driver, f"BY={value}") == "250 2.1.0"
    assert mail_params(driver)[BY] == expected


@pytest.mark.parametrize(
    "params",
    [
        "BY", "BY=", "BY=0;R", "BY=-1;R", "BY=-0;R", "BY=120", "BY=120;", "BY=120;X", "BY=120;RN", "BY=1234567890;N",
        "BY=120;T", "BY=;R", "BY=1.5;R", "BY=+-1;N", "BY=\u0661;N", "BY=5;N BY=5;N",
    ],
)  # fmt: skip
def test_invalid_by(params: str) -> None:
    assert mail(begun(DeliverBy()), params) == "501 5.5.4"


def test_by_belongs_to_mail() -> None:
    driver = begun(DeliverBy())
    driver.send_lines(SENDER)
    assert codes(driver.send_lines("RCPT TO:<you@mx.test> BY=120;R")) == ["555 5.5.4"]


@pytest.mark.parametrize(
    ("minimum", "value", "expected"),
    [
        (None, "1;R", "250 2.1.0"), (30, "30;R", "250 2.1.0"), (30, "29;R", "555 5.5.4"), (30, "29;N", "250 2.1.0"),
        (0, "1;R", "250 2.1.0"),
    ],
)  # fmt: skip
def test_least_by_time(minimum: int | None, value: str, expected: str) -> None:
    driver = begun(DeliverBy(minimum))
    line = "DELIVERBY" if minimum is None else f"DELIVERBY {minimum}"
    assert line in {shown[4:] for shown in driver.send_lines(HELLO)[0].split("\n")}
    assert mail(driver, f"BY={value}") == expected


def test_time_that_is_over() -> None:
    assert [ByTime(seconds, "R").expired for seconds in (1, 0, -1)] == [False, True, True]
    assert not ByTime(-1, "N").expired
    assert (EXPIRED.code, EXPIRED.status) == (554, "5.4.7")


@pytest.mark.parametrize(
    ("by", "reports"),
    [
        (ByTime(5, "N"), (False, True)), (ByTime(0, "N"), (False, False)), (ByTime(5, "R"), (False, False)),
        (ByTime(-5, "N", trace=True), (True, True)), (ByTime(5, "R", trace=True), (True, True)),
    ],
)  # fmt: skip
def test_relay_that_is_reported(by: ByTime, reports: tuple[bool, bool]) -> None:
    """RFC 2852 4.1.4 and 4.1.4.2."""
    assert (by.reports_relay(offered=True), by.reports_relay(offered=False)) == reports


def test_time_that_a_relay_has_used() -> None:
    assert ByTime(120, "R").after(22) == ByTime(98, "R")
    assert ByTime(10, "N", trace=True).after(40) == ByTime(-30, "N", trace=True)
    with pytest.raises(ValueError, match="minimum must be <= 999999999"):
        DeliverBy(10**9)
    longest = ByTime(-999999999, "N")
    assert longest.after(10) == longest  # ten digits would be an invalid value


def test_client_knows_the_least_by_time() -> None:
    protocol = client("DELIVERBY 240")
    assert protocol.offered["DELIVERBY"] == DeliverBy(240)
    with pytest.raises(LocalProtocolError, match="from 240 seconds on"):
        protocol.send_command(with_params({BY: ByTime(98, "R")}))
    assert protocol.encode_command(with_params({BY: ByTime(98, "N", trace=True)})).endswith(b" BY=98;NT\r\n")
    assert client("DELIVERBY").encode_command(with_params({BY: ByTime(1, "R")})).endswith(b" BY=1;R\r\n")
    assert client("DELIVERBY x").offered["DELIVERBY"] == DeliverBy()
    assert client("DELIVERBY 240,x,y").offered["DELIVERBY"] == DeliverBy(240)
    assert client("DELIVERBY ,x").offered["DELIVERBY"] == DeliverBy()
    assert protocol.encode_command(Rcpt(Path("a@b", "a", "b"))) == b"RCPT TO:<a@b>\r\n"


# --- FUTURERELEASE, RFC 4865 -----------------------------------------------------------------------------------------


def test_future_release_is_offered_after_auth() -> None:
    driver = begun(FUTURE, user=None, now=lambda: NOW)
    assert "FUTURERELEASE" not in driver.send_lines(HELLO)[0]
    assert mail(driver, "HOLDFOR=5") == "555 5.5.4"
    driver.protocol.set_authenticated("fred")
    assert "250-FUTURERELEASE 86400 2026-01-02T00:00:00Z" in sorted(
        f"250-{x[4:]}" for x in driver.send_lines(HELLO)[0].split("\n")
    )
    anyone = begun(FutureRelease(5, authenticated=False), user=None, now=lambda: NOW)
    assert "FUTURERELEASE 5 2026-01-01T00:00:05Z" in anyone.send_lines(HELLO)[0]
    assert "FUTURERELEASE" not in begun(FutureRelease()).send_lines(HELLO)[0]


def test_latest_release_is_that_of_each_ehlo() -> None:
    times = iter([NOW, NOW + 3600])
    later = NOW + 3600
    driver = ServerDriver(extensions=[FutureRelease(60, authenticated=False)], now=lambda: next(times, later))
    assert driver.send_lines(HELLO)[1].endswith("FUTURERELEASE 60 2026-01-01T00:01:00Z")
    driver.send_lines("NOOP")
    assert driver.send_lines(HELLO)[0].endswith("FUTURERELEASE 60 2026-01-01T01:01:00Z")


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ("HOLDFOR=3600", "250 2.1.0"), ("HOLDFOR=86400", "250 2.1.0"), ("HOLDFOR=86401", "501 5.5.4"),
        ("HOLDFOR=0", "501 5.5.4"), ("HOLDFOR=05", "501 5.5.4"), ("HOLDFOR", "501 5.5.4"), ("HOLDFOR=-5", "501 5.5.4"),
        ("HOLDFOR=1000000000", "501 5.5.4"), ("HOLDFOR=5 HOLDFOR=5", "501 5.5.4"),
        ("HOLDUNTIL=2026-01-01T12:00:00Z", "250 2.1.0"), ("HOLDUNTIL=2026-01-02T00:00:00z", "250 2.1.0"),
        ("HOLDUNTIL=2026-01-01T12:00:00.25Z", "250 2.1.0"), ("HOLDUNTIL=2020-01-01T00:00:00Z", "250 2.1.0"),
        ("HOLDUNTIL=2026-01-02T00:00:01Z", "501 5.5.4"), ("HOLDUNTIL=2026-01-01T12:00:00+00:00", "501 5.5.4"),
        ("HOLDUNTIL=2026-01-01", "501 5.5.4"), ("HOLDUNTIL", "501 5.5.4"), ("HOLDUNTIL=", "501 5.5.4"),
        ("HOLDUNTIL=2026-13-01T12:00:00Z", "501 5.5.4"),
        ("HOLDFOR=5 HOLDUNTIL=2026-01-01T12:00:00Z", "501 5.5.4"),
    ],
)  # fmt: skip
def test_hold(params: str, expected: str) -> None:
    assert mail(begun(FUTURE, now=lambda: NOW), params) == expected


def test_fixed_latest_date() -> None:
    driver = begun(FutureRelease(60, NOW + 9 * DAY), now=lambda: NOW)
    assert mail(driver, "HOLDUNTIL=2026-01-10T00:00:01Z") == "501 5.5.4"
    assert mail(driver, "HOLDUNTIL=2026-01-10T00:00:00Z") == "250 2.1.0"


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ("HOLDFOR=120 BY=120;R", "250 2.1.0"), ("HOLDFOR=121 BY=120;R", "501 5.5.4"), ("BY=5;N HOLDFOR=6", "501 5.5.4"),
        ("HOLDUNTIL=2026-01-01T00:00:05Z BY=5;R", "250 2.1.0"), ("HOLDUNTIL=2026-01-01T00:00:06Z BY=5;R", "501 5.5.4"),
    ],
)  # fmt: skip
def test_message_is_not_released_later_than_delivered(params: str, expected: str) -> None:
    assert mail(begun(FUTURE, DeliverBy(), now=lambda: NOW), params) == expected


def test_application_refuses_more_messages_than_a_user_may_keep() -> None:
    """RFC 4865 6 (4)."""
    driver = begun(
        FUTURE, now=lambda: NOW, answer=lambda command: QUOTA_EXCEEDED if isinstance(command, Mail) else None
    )
    assert mail(driver, "HOLDFOR=5") == "552 5.7.0"


def test_release_time() -> None:
    until = NOW + DAY
    assert release_time(Params({HOLDFOR: 60}), NOW) == NOW + 60
    assert release_time(Params({HOLDUNTIL: until}), NOW) == until
    assert release_time(Params(), NOW) is None


def test_client_knows_the_latest_release() -> None:
    protocol = client("FUTURERELEASE 60 2100-01-01T00:00:00Z", "DELIVERBY")
    offered = protocol.offered["FUTURERELEASE"]
    late = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp())
    assert isinstance(offered, FutureRelease)
    assert (offered.max_interval, offered.max_date) == (60, late)
    assert protocol.encode_command(with_params({HOLDFOR: 60})).endswith(b" HOLDFOR=60\r\n")
    assert protocol.encode_command(with_params({HOLDUNTIL: late})).endswith(b" HOLDUNTIL=2100-01-01T00:00:00Z\r\n")
    requests: list[dict[Param[Any], Any]] = [
        {HOLDFOR: 61},
        {HOLDUNTIL: late + 1},
        {HOLDFOR: 6, BY: ByTime(5, "R")},
    ]
    for values in requests:
        with pytest.raises(LocalProtocolError, match=r"RFC 4865 4\.1"):
            protocol.send_command(with_params(values))


@pytest.mark.parametrize("line", ["FUTURERELEASE", "FUTURERELEASE x y"])
def test_offer_without_limits_accepts_nothing(line: str) -> None:
    with pytest.raises(LocalProtocolError, match="at most 0 seconds"):
        client(line).send_command(with_params({HOLDFOR: 1}))


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"max_interval": -1}, ValueError, "max_interval"), ({"max_date": "x"}, TypeError, "max_date"),
        ({"max_date": datetime(2026, 1, 1, tzinfo=UTC)}, TypeError, "max_date"), ({"max_date": 10**12}, ValueError, "max_date"),
        ({"max_interval": 10**9}, ValueError, "max_interval"),
        ({"authenticated": 5}, TypeError, "authenticated"),
    ],
)  # fmt: skip
def test_wrong_settings_of_future_release(settings: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        FutureRelease(**settings)


# --- MT-PRIORITY, RFC 6710 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("priority", range(-9, 10))
def test_priority(priority: int) -> None:
    driver = begun(MtPriority())
    assert mail(driver, f"MT-PRIORITY={priority}") == "250 2.1.0"
    assert mail_params(driver)[MT_PRIORITY] == priority


@pytest.mark.parametrize(
    "params",
    [
        "MT-PRIORITY=+3", "MT-PRIORITY=10", "MT-PRIORITY=-0", "MT-PRIORITY=1.5", "MT-PRIORITY",
        "MT-PRIORITY=-10", "MT-PRIORITY=1 MT-PRIORITY=1", "MT-PRIORITY=\u0661", "MT-PRIORITY=03",
        "MT-PRIORITY=", "MT-PRIORITY==1", "mt-priority=1=1",
    ],
)  # fmt: skip
def test_invalid_priority(params: str) -> None:
    assert mail(begun(MtPriority()), params) == "501 5.5.2"


def test_priority_of_an_unknown_client_is_lowered() -> None:
    driver = begun(MtPriority(), user=None)
    assert driver.send_lines(f"{SENDER} MT-PRIORITY=3 SIZE=5") == [
        "250 2.3.6 0 is the new priority assigned to the message"
    ]
    assert mail_params(driver)[MT_PRIORITY] == 0
    assert mail_params(driver).encode() == "MT-PRIORITY=0 SIZE=5"
    # A hook can lower the priority for other reasons; this is what it sees.
    assert isinstance(mail_params(driver)[MT_PRIORITY], ChangedPriority)


@pytest.mark.parametrize(
    ("untrusted", "priority", "reply"),
    [(0, -3, "2.1.0"), (0, 0, "2.1.0"), (4, 4, "2.1.0"), (4, 5, "2.3.6"), (-3, 0, "2.3.6")],
)
def test_highest_priority_of_an_unknown_client(untrusted: int, priority: int, reply: str) -> None:
    driver = begun(MtPriority(untrusted=untrusted), user=None)
    assert mail(driver, f"MT-PRIORITY={priority}") == f"250 {reply}"


def test_reply_of_the_application_comes_first() -> None:
    def answer(command: Command) -> Reply | None:
        return TOO_LOW if isinstance(command, Mail) else refuse_no_and_later(command)

    assert mail(begun(MtPriority(), user=None, answer=answer), "MT-PRIORITY=3") == "550 5.7.15"
    assert [(reply.code, reply.status) for reply in (TOO_LOW_NOW, TOO_BIG_FOR_PRIORITY)] == [
        (450, "4.7.15"),
        (552, "5.7.16"),
    ]


def test_policy() -> None:
    assert "MT-PRIORITY MIXER" in begun(MtPriority("MIXER")).send_lines(HELLO)[0]
    assert client("MT-PRIORITY STANAG4406").offered["MT-PRIORITY"] == MtPriority("STANAG4406")
    assert (
        client("MT-PRIORITY").offered["MT-PRIORITY"]
        == client("MT-PRIORITY \u00a7").offered["MT-PRIORITY"]
        == MtPriority()
    )
    with pytest.raises(ValueError, match="policy"):
        MtPriority("a b")
    with pytest.raises(TypeError, match="policy must be str"):
        MtPriority(5)  # type: ignore[arg-type]
    for priority in (-10, 10):
        with pytest.raises(ValueError, match="untrusted must be"):
            MtPriority(untrusted=priority)


# --- RRVS, RFC 7293 --------------------------------------------------------------------------------------------------

SINCE = int(datetime(2014, 4, 3, 23, 1, tzinfo=UTC).timestamp())


def rcpt(value: str) -> tuple[str, ServerDriver]:
    driver = begun(RequireRecipientValidSince())
    driver.send_lines(SENDER)
    return codes(driver.send_lines(f"RCPT TO:<receiver@mx.test> {value}"))[0], driver


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2014-04-03T23:01:00Z", ValidSince(SINCE)), ("2014-04-03T23:01:00Z;C", ValidSince(SINCE, "C")),
        ("2014-04-03t23:01:00z;r", ValidSince(SINCE)), ("2014-04-04T01:01:00+02:00;c", ValidSince(SINCE, "C")),
    ],
)  # fmt: skip
def test_rrvs(value: str, expected: ValidSince) -> None:
    reply, driver = rcpt(f"RRVS={value}")
    assert reply == "250 2.1.5"
    assert driver.protocol.state.rcpts[0].params[RRVS] == expected


@pytest.mark.parametrize(
    "value",
    [
        "RRVS", "RRVS=", "RRVS=2014-04-03T23:01:00.5Z", "RRVS=2014-04-03", "RRVS=2014-04-03T23:01:00", "RRVS=x",
        "RRVS=2014-02-30T23:01:00Z", "RRVS=2014-04-03T23:01:00Z;X", "RRVS=2014-04-03T23:01:00Z;", "RRVS=2014-04-03T23:01:00Z;CR",
    ],
)  # fmt: skip
def test_invalid_rrvs(value: str) -> None:
    assert rcpt(value)[0] == "501 5.5.4"


def test_rrvs_belongs_to_rcpt() -> None:
    assert mail(begun(RequireRecipientValidSince()), "RRVS=2014-04-03T23:01:00Z") == "555 5.5.4"


def test_application_refuses_a_changed_mailbox() -> None:
    def answer(command: Command) -> Reply | None:
        return OWNER_CHANGED if isinstance(command, Rcpt) and command.params[RRVS].since <= SINCE else None

    driver = begun(RequireRecipientValidSince(), answer=answer)
    driver.send_lines(SENDER)
    assert codes(driver.send_lines("RCPT TO:<receiver@mx.test> RRVS=2014-04-03T23:01:00Z")) == ["550 5.7.17"]
    assert [reply.status for reply in (DOMAIN_OWNER_CHANGED, CANNOT_TEST)] == ["5.7.18", "5.7.19"]


@pytest.mark.parametrize(
    ("local", "expected"),
    [
        ("postmaster", True), ("Abuse", True), ("HOSTMASTER", True), ("trio-request", True), ("fred", False),
        ("request", False), ("postmaster2", False),
    ],
)  # fmt: skip
def test_role_accounts(local: str, expected: bool) -> None:
    """RFC 7293 5.1 (1), RFC 2142."""
    assert is_role_account(local) == expected


def test_parameter_of_a_role_account_reaches_the_application() -> None:
    """A relay must preserve it (RFC 7293 5.1.1)."""
    driver = begun(RequireRecipientValidSince())
    driver.send_lines(SENDER)
    assert codes(driver.send_lines("RCPT TO:<postmaster@mx.test> RRVS=2014-04-03T23:01:00Z")) == ["250 2.1.5"]
    assert driver.protocol.state.rcpts[0].params[RRVS] == ValidSince(SINCE)


def test_client_sends_rrvs() -> None:
    path = Path("a@b", "a", "b")
    command = Rcpt(path, make_params({"rrvs": ValidSince(SINCE, "C")}, [RRVS]))
    assert client("RRVS").encode_command(command) == b"RCPT TO:<a@b> RRVS=2014-04-03T23:01:00Z;C\r\n"
    assert Params({RRVS: ValidSince(SINCE)}).encode() == "RRVS=2014-04-03T23:01:00Z"
    with pytest.raises(NotOfferedError) as caught:
        client().encode_command(command)
    assert caught.value.status == "5.7.19"


# --- passing on ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("param", "value", "rule"),
    [
        (BY, ByTime(5, "R"), "always"), (BY, ByTime(5, "N"), "if offered"), (RRVS, ValidSince(SINCE), "always"),
        (RRVS, ValidSince(SINCE, "C"), "if offered"), (MT_PRIORITY, 3, "if offered"), (HOLDFOR, 3, "never"),
        (HOLDUNTIL, NOW, "never"), (REQUIRETLS, True, "always"), (BODY, "BINARYMIME", "always"), (BODY, "8BITMIME", "never"),
    ],
)  # fmt: skip
def test_what_a_relay_passes_on(param: Param[Any], value: object, rule: str) -> None:
    """RFC 2852 4.1.4, RFC 6710 4.3, RFC 7293 5.1.1, RFC 8689 4.2.1."""
    assert param.relay(value) == rule


def test_client_knows_which_parameters_are_offered() -> None:
    assert client("RRVS").offers(Rcpt, RRVS)
    assert not client("RRVS").offers(Mail, RRVS)
    assert not client().offers(Rcpt, RRVS)


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("by", ByTime(0, "R")), ("by", ByTime(10**9, "N")), ("by", "120;R"), ("holdfor", 0), ("holdfor", 1.5),
        ("holduntil", datetime(2030, 1, 1, tzinfo=UTC)), ("holduntil", 10**12),
        ("holduntil", "2030-01-01T00:00:00Z"), ("mt_priority", 10), ("mt_priority", True),
        ("mt_priority", "3"), ("requiretls", "yes"), ("rrvs", SINCE),
    ],
)  # fmt: skip
def test_invalid_values_are_not_sent(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name.upper().replace("_", "-")):
        make_params({name: value}, [BY, HOLDFOR, HOLDUNTIL, MT_PRIORITY, REQUIRETLS, RRVS])


@pytest.mark.parametrize("since", [datetime(2030, 1, 1, tzinfo=UTC), 1.5, "2030-01-01T00:00:00Z", None])
def test_invalid_time_of_rrvs(since: Any) -> None:
    with pytest.raises(TypeError, match="since must be an integer"):
        ValidSince(since)
    with pytest.raises(ValueError, match="since must be in the years"):
        ValidSince(10**12)


def test_fraction_of_holduntil_counts_as_a_second() -> None:
    """RFC 4865 4.2 (8): the message must not be released before that time."""
    driver = begun(FUTURE, now=lambda: NOW)
    assert mail(driver, "HOLDUNTIL=2026-01-01T12:00:00.25Z") == "250 2.1.0"
    assert mail_params(driver)[HOLDUNTIL] == NOW + DAY // 2 + 1


def test_future_release_without_a_clock() -> None:
    assert "FUTURERELEASE" not in begun(FUTURE).send_lines(HELLO)[0]
    driver = begun(FutureRelease(60, NOW), DeliverBy())
    assert "FUTURERELEASE 60 2026-01-01T00:00:00Z" in driver.send_lines(HELLO)[0]
    assert mail(driver, "HOLDUNTIL=2026-01-01T00:00:01Z") == "501 5.5.4"
    assert mail(driver, "HOLDFOR=60 BY=59;R") == "501 5.5.4"
    assert mail(driver, "HOLDUNTIL=2025-12-31T00:00:00Z BY=59;R") == "250 2.1.0"  # whether it is later is not known


def test_client_without_a_latest_date() -> None:
    protocol = client("FUTURERELEASE 60 never")
    assert protocol.encode_command(with_params({HOLDUNTIL: NOW})).endswith(b" HOLDUNTIL=2026-01-01T00:00:00Z\r\n")
