"""Other mail servers: how each of them is started, what it supports, and how it changes messages.

They need not be configured on the machine. Exim and OpenSMTPD can be unpacked together (``dpkg -x``) in the directory
that ``SMTP_TRIO_MTAS`` names. Newer versions than those of the system can be unpacked in directories of their own:
``SMTP_TRIO_EXIM`` names that of an Exim that supports LIMITS and PROXY (exim4-daemon-heavy 4.98 or later), and
``SMTP_TRIO_POSTFIX`` that of a Postfix.
Exim, OpenSMTPD and Postfix have to be started as root. They run in namespaces for mounts and processes, where their own
directories replace those of the system, and nothing of them is left after the test.

To add a server, write a function that writes its configuration and returns its commands, and add it to SETUPS.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from attrs import evolve, frozen

from .programs import PASSWORD, USER

CONFIGS = Path(__file__).with_name("configs")
ADDRESS = "127.0.0.1"
MTAS = Path(os.environ.get("SMTP_TRIO_MTAS", "/"))
EXIM = Path(os.environ.get("SMTP_TRIO_EXIM", "/nonexistent"))
POSTFIX = Path(os.environ.get("SMTP_TRIO_POSTFIX", "/nonexistent"))
NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
MAIL_USER = "smtp-trio-test"
"""The user that owns the mail, in the namespace of a server that is started as root."""
NOBODY = 65534
#: The settings that are added in a profile. "default" has none: it is the server as its project or Debian ships it, with what it
#: needs to accept mail for one domain, to offer TLS and to check passwords. "interop" offers the extensions that the tests
#: use, "xclient" is for tests of proxies, and "options" and "lenient" are further configurations for the tables.
SETTINGS: Mapping[tuple[str, str], Sequence[str]] = {
    ("exim", "interop"): ("dsn_advertise_hosts = *",),
    ("exim-current", "interop"): ("dsn_advertise_hosts = *", f"exim_path = {EXIM}/usr/sbin/exim4"),
    ("exim-current", "proxy"): ("hosts_proxy = 127.0.0.2",),
    ("exim", "options"): ("dsn_advertise_hosts = *", "allow_domain_literals = true"),
    # What Postfix 3.7 does by default with LF, also in newer versions. An unknown command does not end the session.
    ("postfix", "interop"): (
        "smtpd_forbid_bare_newline = no",
        "smtpd_forbid_unauth_pipelining = no",
        "smtpd_forbidden_commands =",
    ),
    ("postfix", "options"): (
        "smtpd_forbid_bare_newline = reject",
        "smtpd_forbid_bare_newline_exclusions =",
        "smtpd_helo_required = yes",
        "strict_rfc821_envelopes = yes",
        "strict_smtputf8 = yes",
    ),
    # After XCLIENT, Postfix compares the address that was named.
    ("postfix", "xclient"): (
        "smtpd_authorized_xclient_hosts = 127.0.0.0/8, 192.0.2.0/24",
        "smtpd_authorized_xforward_hosts = 127.0.0.0/8, 192.0.2.0/24",
    ),
    # for all domains below .test
    ("postfix", "exchanger"): (r"virtual_mailbox_domains = regexp:{{/(^example\.org|\.test)$$/ all}}",),
    ("smtp-trio", "interop"): ("--newlines", "reject"),
    ("smtp-trio", "options"): ("--strict",),
    ("smtp-trio-lmtp", "options"): ("--strict",),
    ("smtp-trio", "lenient"): ("--lenient",),
}
KEYWORDS = frozenset({"PIPELINING", "CHUNKING", "8BITMIME", "SMTPUTF8", "DSN", "SIZE"})
NO_FIELDS = re.compile(b"")


def trace(*names: str) -> re.Pattern[bytes]:
    """Return the pattern of the fields that a server adds before a message, in order; ``+`` marks repeated ones."""
    text = "[^\\n]*\\n(?:[ \\t][^\\n]*\\n)*"
    return re.compile("".join(f"(?:{name.rstrip('+')}:{text}){'+' * name.endswith('+')}" for name in names).encode())


@frozen(kw_only=True)
class Workspace:
    """The directory, ports and certificate of a running server."""

    server: str
    """The name of the `Setup`."""
    profile: str
    """A profile of SETTINGS."""
    directory: Path
    """The server's own directory, which all users can read."""
    port: int
    implicit_port: int
    chain: Path
    key: Path
    node_modules: Path | None = None
    address: str = ADDRESS
    listeners: str = ""
    """Further services of Postfix, one a line."""
    own: Sequence[str] = ()
    """Settings in addition to those of the profile."""

    @property
    def settings(self) -> str:
        """The settings, one a line."""
        return "\n".join((*SETTINGS.get((self.server, self.profile), ()), *self.own))

    def write(self, template: str, name: str) -> Path:
        """Write a configuration file from a template, and return its path."""
        values = {
            "DIRECTORY": self.directory,
            "ADDRESS": self.address,
            "LISTENERS": self.listeners,
            "PORT": self.port,
            "SMTPS": self.implicit_port,
            "CHAIN": self.chain,
            "KEY": self.key,
            "UID": NOBODY,
            "USER": MAIL_USER,
            "LOGIN": USER,
            "PASSWORD": PASSWORD,
            "SETTINGS": self.settings,
        }
        text = (CONFIGS / template).read_text()
        file = self.directory / name
        file.write_text(re.sub(r"@([A-Z]+)@", lambda match: str(values[match[1]]), text))
        return file

    def arguments(self) -> list[str]:
        """Return the arguments of the scripts in the directory ``configs``."""
        return [*map(str, (self.directory, self.port, self.implicit_port, self.chain, self.key)), USER, PASSWORD]


@frozen(kw_only=True)
class Setup:
    """A server: the commands that start it, the features it supports, and its changes to messages."""

    name: str
    commands: Callable[[Workspace], Sequence[Sequence[str]]]
    """A function that writes the configuration and returns the commands, which run in the foreground until killed."""
    needs: Sequence[Sequence[str]] = ()
    """Commands that must be installed, and, with arguments, succeed."""
    root: bool = False
    """True if it has to be started as root."""
    secure: bool = True
    """True if it supports STARTTLS and implicit TLS."""
    logins: bool = True
    """True if it supports AUTH."""
    features: frozenset[str]
    """Those of KEYWORDS that it lists in its reply to EHLO."""
    unknown: str | None = "nobody@example.org"
    """A recipient that it refuses."""
    trace: re.Pattern[bytes] = NO_FIELDS
    """The fields that it adds before every message."""
    lf: bool = False
    """True if it stores CRLF as LF."""
    appends: bytes = b""
    """The octets that it adds after every message."""
    copies: bool = False
    """True if it stores one copy for each recipient, and not one for all."""
    alters: Sequence[str] = ()
    """The messages that it refuses or changes."""
    lmtp: bool = False
    """True if it is a server of LMTP."""


# --- the commands of each server --------------------------------------------------------------------------------------


def isolated(mounts: Mapping[Path, Path], *command: str | Path) -> list[str]:
    """Return a command that runs as root in namespaces, with the keys of ``mounts`` replaced by its values.

    All processes that it starts are killed when it ends.
    """
    binds = [f"mount --bind '{own}' '{system}'" for system, own in mounts.items()]
    # The shell has to stay the first process of the namespace. unshare's --kill-child would not work with the servers
    # themselves: a process that changes its user loses the signal for the death of its parent.
    script = "\n".join(["set -e", "cd /", *binds, '"$@"', "exit"])
    return [*NAMESPACES, "sh", "-c", script, "sh", *map(str, command)]


def users(workspace: Workspace, *names: str) -> dict[Path, Path]:
    """Return mounts for the system's users and groups with the given ones added."""
    mounts = {}
    for system, line in (("/etc/passwd", "{0}:x:{1}:{1}::/:/bin/false"), ("/etc/group", "{0}:x:{1}:")):
        own = workspace.directory / Path(system).name
        lines = [line.format(name, 64000 + number) for number, name in enumerate(names)]
        kept = [text for text in Path(system).read_text().splitlines() if text.split(":")[0] not in names]
        own.write_text("".join(f"{text}\n" for text in (*kept, *lines)))
        mounts[Path(system)] = own
    return mounts


def postfix(workspace: Workspace) -> list[list[str]]:
    config = workspace.directory / "config"
    for directory in (config, workspace.directory / "queue", workspace.directory / "data"):
        directory.mkdir()
    shutil.chown(workspace.directory / "data", "postfix")
    workspace.write("main.cf", "config/main.cf")
    workspace.write("master.cf", "config/master.cf")
    return [isolated({}, "postfix", "-c", config, "start-fg")]


def postfix_current(workspace: Workspace) -> list[list[str]]:
    """Return the commands of the Postfix below POSTFIX, which is newer than that of the system."""
    postfix(workspace)
    config = workspace.directory / "config"
    with (config / "main.cf").open("a") as file:
        file.write(f"command_directory = {POSTFIX}/usr/sbin\n")
    mounts = {Path("/usr/lib/postfix"): POSTFIX / "usr/lib/postfix"}
    return [isolated(mounts, POSTFIX / "usr/sbin/postfix", "-c", config, "start-fg")]


def exim(workspace: Workspace) -> list[list[str]]:
    return _exim(workspace, MTAS)


def exim_current(workspace: Workspace) -> list[list[str]]:
    """Return the commands of the Exim below EXIM, which supports LIMITS and PROXY."""
    return _exim(workspace, EXIM)


def _exim(workspace: Workspace, root: Path) -> list[list[str]]:
    spool = workspace.directory / "spool"
    spool.mkdir()
    spool.chmod(0o777)
    workspace.directory.chmod(0o777)
    config = workspace.write("exim.conf", "exim.conf")
    return [isolated(users(workspace, "Debian-exim", MAIL_USER), root / "usr/sbin/exim4", "-C", config, "-bdf")]


def opensmtpd(workspace: Workspace) -> list[list[str]]:
    mounts = users(workspace, "opensmtpd", "opensmtpq", MAIL_USER)
    for system in ("var/spool", "var/lib", "run"):
        own = workspace.directory / system
        own.mkdir(parents=True)
        mounts[Path("/", system)] = own
    (workspace.directory / "var/spool/smtpd").mkdir(mode=0o711)
    (workspace.directory / "var/lib/opensmtpd/empty").mkdir(parents=True)
    mounts[Path("/usr/libexec")] = MTAS / "usr/libexec"
    config = workspace.write("smtpd.conf", "smtpd.conf")
    config.chmod(0o600)
    return [isolated(mounts, MTAS / "usr/sbin/smtpd", "-d", "-f", config)]


def aiosmtpd(workspace: Workspace) -> list[list[str]]:
    return [[sys.executable, str(CONFIGS / "aiosmtpd_server.py"), *workspace.arguments()]]


def smtp_server(workspace: Workspace) -> list[list[str]]:
    return [["node", str(CONFIGS / "smtp_server.cjs"), *workspace.arguments()]]


def smtp_sink(workspace: Workspace) -> list[list[str]]:
    chroot = ["-u", "nobody", "-R", str(workspace.directory)] if os.geteuid() == 0 else []
    template = "box/new/" if chroot else f"{workspace.directory}/box/new/"
    return [["smtp-sink", *chroot, "-d", template, f"{ADDRESS}:{workspace.port}", "100"]]


def smtp_trio(workspace: Workspace) -> list[list[str]]:
    logins = workspace.directory / "logins"
    logins.write_text(f"{USER}:{PASSWORD}\n")
    logins.chmod(0o600)
    command = [
        sys.executable,
        "-m",
        "smtp_trio",
        "serve",
        "--host",
        ADDRESS,
        "--store",
        f"maildir:{workspace.directory}/box",
    ]
    command += ["--tls-cert", str(workspace.chain), "--tls-key", str(workspace.key), "--size", "50000000"]
    command += ["--name", "localhost", "--accept", "example.org"]
    command += ["--auth-file", str(logins), "--auth-optional", *workspace.settings.split()]
    ports = (["--port", str(workspace.port)], ["--port", str(workspace.implicit_port), "--implicit-tls"])
    return [[*command, *port] for port in ports]


SETUPS = {
    setup.name: setup
    for setup in (
        Setup(
            name="postfix",
            commands=postfix,
            needs=(("postfix",), (*NAMESPACES, "true")),
            root=True,
            logins=False,  # Postfix needs Dovecot or Cyrus for passwords
            features=KEYWORDS,
            trace=trace("Return-Path", "Delivered-To", "Received"),
            lf=True,
            alters=("dot-first",),  # adds a blank line before a message without a header section
        ),
        Setup(
            name="exim",
            commands=exim,
            needs=((str(MTAS / "usr/sbin/exim4"),), (*NAMESPACES, "true")),
            root=True,
            features=KEYWORDS,
            trace=trace("Received"),
            lf=True,
            alters=("dot-first", "header-only"),  # adds the blank line after a missing or unfinished header section
        ),
        Setup(
            name="opensmtpd",
            commands=opensmtpd,
            needs=((str(MTAS / "usr/sbin/smtpd"),), (*NAMESPACES, "true")),
            root=True,
            # With OpenSSL 3, 6.8.0p2 of Debian 12 fails every handshake because it does not find its key (issue 1171).
            secure=False,
            logins=False,  # requires TLS
            features=frozenset({"8BITMIME", "SIZE", "DSN"}),
            trace=trace("Return-Path", "Delivered-To", "Received"),
            lf=True,
            copies=True,
            alters=("dot-first",),  # refuses a message without a header section
        ),
        Setup(
            name="aiosmtpd",
            commands=aiosmtpd,
            needs=((sys.executable, "-c", "import aiosmtpd"),),
            features=frozenset({"8BITMIME", "SIZE", "SMTPUTF8"}),
            alters=("long-lines",),  # refuses lines that are too long
        ),
        Setup(
            name="smtp-server",
            commands=smtp_server,
            needs=(("node",), ("npm",)),
            features=frozenset({"PIPELINING", "8BITMIME", "SIZE", "SMTPUTF8"}),
        ),
        Setup(
            name="smtp-sink",
            commands=smtp_sink,
            needs=(("smtp-sink",),),
            secure=False,
            logins=False,  # lists AUTH, and accepts every login
            features=frozenset({"PIPELINING", "8BITMIME", "DSN"}),
            trace=trace("X-Client-Addr", "X-Client-Proto", "X-Helo-Args", "X-Mail-Args", "X-Rcpt-Args+", "Received"),
            lf=True,
            unknown=None,  # accepts every recipient
            appends=b"\r\n",
        ),
        Setup(name="smtp-trio", commands=smtp_trio, features=KEYWORDS, unknown="nobody@elsewhere.example"),
    )
}
#: A newer version than that of the system, for what only that one supports.
CURRENT_EXIM = evolve(
    SETUPS["exim"],
    name="exim-current",
    commands=exim_current,
    needs=((str(EXIM / "usr/sbin/exim4"),), (*NAMESPACES, "true")),
)


def dovecot_lmtp(workspace: Workspace) -> list[list[str]]:
    home = workspace.directory / "home"
    home.mkdir()
    shutil.chown(home, NOBODY, NOBODY)
    (workspace.directory / "users").write_text(f"bo:{{PLAIN}}x:{NOBODY}:{NOBODY}::{home}::\n")
    return [isolated({}, "dovecot", "-F", "-c", workspace.write("dovecot.conf", "dovecot.conf"))]


def aiosmtpd_lmtp(workspace: Workspace) -> list[list[str]]:
    return [[*command, "lmtp"] for command in aiosmtpd(workspace)]


def smtp_trio_lmtp(workspace: Workspace) -> list[list[str]]:
    return [[*smtp_trio(workspace)[0], "--lmtp"]]


#: Servers of LMTP, for the tables.
LMTP_SETUPS = {
    setup.name: setup
    for setup in (
        Setup(
            name="dovecot-lmtp",
            commands=dovecot_lmtp,
            needs=(("dovecot", "--version"), (*NAMESPACES, "true")),
            root=True,
            secure=False,
            logins=False,
            features=frozenset(),
            lmtp=True,
        ),
        evolve(SETUPS["aiosmtpd"], name="aiosmtpd-lmtp", commands=aiosmtpd_lmtp, secure=False, logins=False, lmtp=True),
        evolve(SETUPS["smtp-trio"], name="smtp-trio-lmtp", commands=smtp_trio_lmtp, secure=False, lmtp=True),
    )
}
#: A newer version than that of the system, for the tables.
CURRENT_POSTFIX = evolve(SETUPS["postfix"], name="postfix-current", commands=postfix_current)
