"""Servers that relay all mail to one port of this host, to see what they send."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import trustme
from attrs import evolve
from ports import free_port

from .programs import HOST
from .servers import Server, run, write_files
from .setups import ADDRESS, CURRENT_EXIM, SETUPS, Workspace


def postfix_relay(workspace: Workspace, port: int, options: Sequence[str] = ()) -> Sequence[Sequence[str]]:
    """Return the commands of a Postfix that relays; ``options`` are further lines of main.cf."""
    commands = SETUPS["postfix"].commands(workspace)
    config = workspace.directory / "config"
    text = (config / "main.cf").read_text()
    for name, value in {
        "default_transport": f"smtp:[{ADDRESS}]:{port}",
        "mynetworks": f"{ADDRESS}/32",
        "smtpd_relay_restrictions": "permit_mynetworks, reject_unauth_destination",
        "virtual_mailbox_domains": "",
        "virtual_alias_maps": "",
    }.items():
        text = re.sub(rf"(?m)^{name} =.*$", f"{name} = {value}", text)
    (config / "main.cf").write_text("\n".join([text, *options, ""]))
    with (config / "master.cf").open("a") as file:
        file.write("smtp unix - - n - - smtp\n")
    return commands


def exim_relay(workspace: Workspace, port: int, options: Sequence[str] = ()) -> Sequence[Sequence[str]]:
    """Return the commands of an Exim that relays; ``options`` are further options of its transport."""
    setup = SETUPS["exim"] if workspace.server == "exim" else CURRENT_EXIM
    commands = setup.commands(workspace)
    config = workspace.directory / "exim.conf"
    text = config.read_text()
    transport = ["driver = smtp", f"port = {port}", "allow_localhost", "hosts_avoid_tls = *", *options]
    for old, new in {
        "  deny message = nothing leaves\n": "  accept\n",
        "  driver = accept\n  transport = keep\n": (
            f"  driver = manualroute\n  route_list = * {ADDRESS}\n  self = send\n  transport = remote\n"
        ),
        "begin transports\n": "".join(["begin transports\nremote:\n", *(f"  {line}\n" for line in transport)]),
    }.items():
        assert old in text
        text = text.replace(old, new)
    config.write_text(text)
    return commands


Relay = Callable[..., Sequence[Sequence[str]]]
RELAYS: dict[str, Relay] = {"postfix": postfix_relay, "exim": exim_relay}


@contextmanager
def start_relay(name: str, port: int, options: Sequence[str] = ()) -> Iterator[Server]:
    """Run a relay until the end of the block. Its log is printed, which pytest shows if the test fails."""
    setup, relay = (CURRENT_EXIM, exim_relay) if name == CURRENT_EXIM.name else (SETUPS[name], RELAYS[name])
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="smtp-trio-")))
        authority = trustme.CA()
        chain, key = write_files(directory, authority.issue_cert(HOST), authority)
        workspace = Workspace(
            server=name,
            profile="interop",
            directory=directory,
            port=free_port(),
            implicit_port=free_port(),
            chain=chain,
            key=key,
        )
        setup = evolve(setup, commands=lambda workspace: relay(workspace, port, options))
        server = stack.enter_context(run(setup, workspace))
        yield server
        print(server.log())
