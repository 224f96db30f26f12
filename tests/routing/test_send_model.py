"""A message to one domain whose exchangers reply in any way, compared with a model of RFC 5321 5.1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

import trio
from attrs import field, frozen
from hypothesis import example, given, settings, strategies as st
from trio.testing import MockClock

from smtp_trio import Body, Hooks, Reply, Server, Session, Unknown
from smtp_trio.protocol import Mail, Rcpt
from smtp_trio.routing import send
from smtp_trio.testing import MemoryResolver, memory_network

NAMES = tuple(f"r{number}@example.org" for number in range(3))


@frozen
class Behaviour:
    """What an exchanger does: codes with which it refuses (0: it accepts), and where it loses the connection."""

    greeting: int = 0
    mail: int = 0
    rcpt: tuple[int, ...] = (0, 0, 0)
    data: int = 0
    lose: Literal["nowhere", "before the session", "mail", "rcpt", "data", "end"] = "nowhere"


REFUSALS = [421, 450, 554]
behaviours = st.builds(
    Behaviour,
    st.sampled_from([0, 0, 0, *REFUSALS]),
    st.sampled_from([0, 0, 0, 421, 450, 550]),
    st.tuples(*[st.sampled_from([0, 0, 450, 452, 550, 552])] * 3),
    st.sampled_from([0, 0, *REFUSALS]),
    st.sampled_from(["nowhere", "nowhere", "nowhere", "before the session", "mail", "rcpt", "data", "end"]),
)


@frozen
class Exchanger(Hooks):
    """A server that behaves so. ``received`` are the recipients of each message that it has stored."""

    behaviour: Behaviour
    received: list[tuple[str, ...]] = field(factory=list)

    async def _lose(self, session: Session, where: str) -> None:
        if self.behaviour.lose == where:
            await trio.aclose_forcefully(session.stream)

    async def connect(self, session: Session) -> Reply | None:
        await self._lose(session, "before the session")
        return refusal(self.behaviour.greeting)

    async def mail(self, session: Session, mail: Mail) -> Reply | None:
        await self._lose(session, "mail")
        return refusal(self.behaviour.mail)

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        await self._lose(session, "rcpt")
        return refusal(self.behaviour.rcpt[NAMES.index(str(rcpt.recipient))])

    async def data(self, session: Session, body: Body) -> Reply | None:
        await self._lose(session, "data")
        await body.read()
        if self.behaviour.data:
            return refusal(self.behaviour.data)
        assert session.envelope is not None
        self.received.append(tuple(str(path) for path in session.envelope.recipients))
        await self._lose(session, "end")
        return None


def refusal(code: int) -> Reply | None:
    return Reply(code, "refused") if code else None


@frozen
class Model:
    """What is known of the recipients: "2", "4" and "5" are classes of replies."""

    outcomes: dict[str, str] = field(factory=dict)
    received: Counter[str] = field(factory=Counter)
    #: The classes of the attempts that have failed as a whole.
    failed: list[str] = field(factory=list)

    @property
    def waiting(self) -> list[str]:
        return [name for name in NAMES if self.outcomes.get(name, "4") == "4"]

    @classmethod
    def of(cls, behaviours: Iterable[Behaviour]) -> Model:
        model = cls()
        for behaviour in behaviours:
            if model.waiting:
                model.session(behaviour)
        for name in NAMES:
            if name not in model.outcomes:
                model.outcomes[name] = min(model.failed)
        return model

    def session(self, behaviour: Behaviour) -> None:
        waiting = self.waiting
        if behaviour.lose == "before the session":
            self.failed.append("4")
        elif behaviour.greeting:
            self.failed.append(kind(behaviour.greeting))
        elif behaviour.lose == "mail":
            self.failed.append("4")
        elif behaviour.mail:
            self.outcomes.update(dict.fromkeys(waiting, kind(behaviour.mail)))
        elif behaviour.lose == "rcpt":
            self.failed.append("4")
        else:
            codes = {name: code for name, code in zip(NAMES, behaviour.rcpt, strict=True) if name in waiting}
            # RFC 5321 4.5.3.1.10: 552 in reply to RCPT is as 452.
            self.outcomes.update({name: "4" if code == 552 else kind(code) for name, code in codes.items() if code})
            if accepted := [name for name, code in codes.items() if not code]:
                self.message(behaviour, accepted)

    def message(self, behaviour: Behaviour, accepted: list[str]) -> None:
        if behaviour.lose == "data":
            self.failed.append("4")  # the server closes before it asks for the message
        elif behaviour.data:
            self.outcomes.update(dict.fromkeys(accepted, kind(behaviour.data)))
        else:
            self.received.update(accepted)
            self.outcomes.update(dict.fromkeys(accepted, "unknown" if behaviour.lose == "end" else "2"))


def kind(code: int) -> str:
    return str(code)[0]


@settings(max_examples=60)
@example([Behaviour(rcpt=(0, 450, 550)), Behaviour(lose="end")])
@example([Behaviour(lose="end", rcpt=(0, 450, 0)), Behaviour(data=450), Behaviour()])
@example([Behaviour(greeting=554), Behaviour(mail=450), Behaviour(greeting=554)])
@given(st.lists(behaviours, min_size=1, max_size=4))
def test_outcomes_are_those_of_the_model(exchangers: list[Behaviour]) -> None:
    """Of each recipient. None gets the message twice, whatever the exchangers reply."""
    trio.run(compare, exchangers, clock=MockClock(autojump_threshold=0))


async def compare(behaviours: Sequence[Behaviour]) -> None:
    exchangers = {f"192.0.2.{number}": Exchanger(each) for number, each in enumerate(behaviours)}
    hosts = [f"mx{number}.example" for number, _ in enumerate(behaviours)]
    resolver = MemoryResolver(
        {
            "example.org": {"MX": list(enumerate(hosts))},
            **{host: {"A": [address]} for host, address in zip(hosts, exchangers, strict=True)},
        }
    )
    servers = {address: Server(each, extensions=[]) for address, each in exchangers.items()}
    async with memory_network(servers, raise_hook_errors=False):
        message = b"Subject: hi\r\n\r\nhello\r\n"
        result = await send(message, sender="me@example.net", recipients=NAMES, resolver=resolver)
    model = Model.of(behaviours)
    found = {
        each.recipient: "unknown" if isinstance(each, Unknown) else kind(each.reply.code) for each in result.outcomes
    }
    # 552 in reply to RCPT is temporary, and has the class 5.
    temporary = {each.recipient for each in result.rejected if each.temporary}
    assert {name: "4" if name in temporary else each for name, each in found.items()} == model.outcomes
    received = Counter(name for each in exchangers.values() for names in each.received for name in names)
    assert received == model.received
    assert max(received.values(), default=0) <= 1
