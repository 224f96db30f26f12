"""How the servers that our mail goes to are started, and what each of them can do and does to a message.

None of them needs an installation of its own. Exim and OpenSMTPD may be unpacked side by side (``dpkg -x``) under the
folder that ``SMTP_TRIO_MTAS`` names. These two and Postfix want to start as root; they run in a mount and a process
namespace, with folders of their own where they expect the system's, and nothing of them outlives the test.

To add one: a function that writes its configuration and gives its command, and a row in RECIPES.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from attrs import frozen

from .programs import PASSWORD, USER

CONFIGS = Path(__file__).with_name("configs")
ADDRESS = "127.0.0.1"
MTAS = Path(os.environ.get("SMTP_TRIO_MTAS", "/"))
NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
KEEPER = "smtp-trio-test"
"""The user under whom mail is kept, in the namespace of a server that starts as root."""
NOBODY = 65534
MATTER = frozenset({"PIPELINING", "CHUNKING", "8BITMIME", "SMTPUTF8", "DSN", "SIZE"})
NOTHING = re.compile(b"")


def trace(*names: str) -> re.Pattern[bytes]:
    """What a server puts in front of a message: these fields, in this order; one with a + more than once."""
    text = "[^\\n]*\\n(?:[ \\t][^\\n]*\\n)*"
    return re.compile("".join(f"(?:{name.rstrip('+')}:{text}){'+' * name.endswith('+')}" for name in names).encode())


@frozen(kw_only=True)
class Place:
    """Where a server lives while it runs."""

    folder: Path
    """Its own; all users may look into it."""
    port: int
    implicit_port: int
    chain: Path
    key: Path
    node_modules: Path | None

    def write(self, template: str, name: str) -> Path:
        """Fill in a configuration file."""
        words = {
            "FOLDER": self.folder,
            "PORT": self.port,
            "SMTPS": self.implicit_port,
            "CHAIN": self.chain,
            "KEY": self.key,
            "UID": NOBODY,
            "USER": KEEPER,
            "LOGIN": USER,
            "PASSWORD": PASSWORD,
        }
        text = (CONFIGS / template).read_text()
        file = self.folder / name
        file.write_text(re.sub(r"@([A-Z]+)@", lambda word: str(words[word[1]]), text))
        return file

    def arguments(self) -> list[str]:
        """What the scripts in the folder of the configurations are told."""
        return [*map(str, (self.folder, self.port, self.implicit_port, self.chain, self.key)), USER, PASSWORD]


@frozen(kw_only=True)
class Recipe:
    """How a server is started, and what it can do."""

    name: str
    commands: Callable[[Place], Sequence[Sequence[str]]]
    """Writes its configuration; gives the commands that run in the foreground until they are killed."""
    needs: Sequence[Sequence[str]] = ()
    """Commands that must be there; with arguments, they must succeed too."""
    root: bool = False
    secure: bool = True
    """Whether it knows STARTTLS and implicit TLS."""
    logins: bool = True
    """Whether it knows AUTH."""
    features: frozenset[str]
    """The keywords it lists, of those in MATTER."""
    unknown: str | None = "nobody@example.org"
    """A recipient that it refuses."""
    trace: re.Pattern[bytes] = NOTHING
    """What it puts in front of every message."""
    unix: bool = False
    """Whether it writes each CRLF as LF; the others keep the octets as they are."""
    adds: bytes = b""
    """What it puts behind every message."""
    copies: bool = False
    """Whether it keeps a copy for each recipient, where the others keep one for all."""
    spoils: Sequence[str] = ()
    """Mails that it refuses, or does not keep as they are."""


# --- one function a server: its files are written, its commands returned ---------------------------------------------


def isolated(mounts: Mapping[Path, Path], *command: str | Path) -> list[str]:
    """Run a command that starts as root where folders of ours hide the system's; with it, all its children die."""
    binds = [f"mount --bind '{ours}' '{theirs}'" for theirs, ours in mounts.items()]
    # The shell stays: who becomes another user, as these servers do, is no longer told of the death of its parent.
    script = "\n".join(["set -e", "cd /", *binds, '"$@"', "exit"])
    return [*NAMESPACES, "sh", "-c", script, "sh", *map(str, command)]


def users(place: Place, *names: str) -> dict[Path, Path]:
    """The system's users and groups, and these."""
    mounts = {}
    for theirs, line in (("/etc/passwd", "{0}:x:{1}:{1}::/:/bin/false"), ("/etc/group", "{0}:x:{1}:")):
        ours = place.folder / Path(theirs).name
        lines = [line.format(name, 64000 + number) for number, name in enumerate(names)]
        kept = [text for text in Path(theirs).read_text().splitlines() if text.split(":")[0] not in names]
        ours.write_text("".join(f"{text}\n" for text in (*kept, *lines)))
        mounts[Path(theirs)] = ours
    return mounts


def postfix(place: Place) -> list[list[str]]:
    config = place.folder / "config"
    for folder in (config, place.folder / "queue", place.folder / "data"):
        folder.mkdir()
    shutil.chown(place.folder / "data", "postfix")
    place.write("main.cf", "config/main.cf")
    place.write("master.cf", "config/master.cf")
    return [isolated({}, "postfix", "-c", config, "start-fg")]


def exim(place: Place) -> list[list[str]]:
    spool = place.folder / "spool"
    spool.mkdir()
    spool.chmod(0o777)
    place.folder.chmod(0o777)
    config = place.write("exim.conf", "exim.conf")
    return [isolated(users(place, "Debian-exim", KEEPER), MTAS / "usr/sbin/exim4", "-C", config, "-bdf")]


def opensmtpd(place: Place) -> list[list[str]]:
    mounts = users(place, "opensmtpd", "opensmtpq", KEEPER)
    for theirs in ("var/spool", "var/lib", "run"):
        ours = place.folder / theirs
        ours.mkdir(parents=True)
        mounts[Path("/", theirs)] = ours
    (place.folder / "var/spool/smtpd").mkdir(mode=0o711)
    (place.folder / "var/lib/opensmtpd/empty").mkdir(parents=True)
    mounts[Path("/usr/libexec")] = MTAS / "usr/libexec"
    config = place.write("smtpd.conf", "smtpd.conf")
    config.chmod(0o600)
    return [isolated(mounts, MTAS / "usr/sbin/smtpd", "-d", "-f", config)]


def aiosmtpd(place: Place) -> list[list[str]]:
    return [[sys.executable, str(CONFIGS / "aiosmtpd_server.py"), *place.arguments()]]


def smtp_server(place: Place) -> list[list[str]]:
    return [["node", str(CONFIGS / "smtp_server.cjs"), *place.arguments()]]


def smtp_sink(place: Place) -> list[list[str]]:
    where = ["-u", "nobody", "-R", str(place.folder)] if os.geteuid() == 0 else []
    template = "box/new/" if where else f"{place.folder}/box/new/"
    return [["smtp-sink", *where, "-d", template, f"{ADDRESS}:{place.port}", "100"]]


def ours(place: Place) -> list[list[str]]:
    logins = place.folder / "logins"
    logins.write_text(f"{USER}:{PASSWORD}\n")
    logins.chmod(0o600)
    command = [sys.executable, "-m", "smtp_trio", "serve", "--host", ADDRESS, "--store", f"maildir:{place.folder}/box"]
    command += ["--tls-cert", str(place.chain), "--tls-key", str(place.key), "--size", "50000000"]
    command += ["--accept", "example.org"]
    command += ["--auth-file", str(logins), "--auth-optional", "--newlines", "reject"]
    ports = (["--port", str(place.port)], ["--port", str(place.implicit_port), "--implicit-tls"])
    return [[*command, *port] for port in ports]


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="postfix",
            commands=postfix,
            needs=(("postfix",), (*NAMESPACES, "true")),
            root=True,
            logins=False,  # it leaves passwords to Dovecot or Cyrus
            features=MATTER,
            trace=trace("Return-Path", "Delivered-To", "Received"),
            unix=True,
            spoils=("dot-first",),  # puts a blank line in front of what has no header section
        ),
        Recipe(
            name="exim",
            commands=exim,
            needs=((str(MTAS / "usr/sbin/exim4"),), (*NAMESPACES, "true")),
            root=True,
            features=MATTER,
            trace=trace("Received"),
            unix=True,
            spoils=("dot-first", "header-only"),  # ends a header section by a blank line, even one that is not there
        ),
        Recipe(
            name="opensmtpd",
            commands=opensmtpd,
            needs=((str(MTAS / "usr/sbin/smtpd"),), (*NAMESPACES, "true")),
            root=True,
            # Debian 12's 6.8.0p2 breaks every handshake: under OpenSSL 3 it does not find its key (OpenSMTPD issue 1171).
            secure=False,
            logins=False,  # it wants TLS for them
            features=frozenset({"8BITMIME", "SIZE", "DSN"}),
            trace=trace("Return-Path", "Delivered-To", "Received"),
            unix=True,
            copies=True,
            spoils=("dot-first",),  # refuses what has no header section
        ),
        Recipe(
            name="aiosmtpd",
            commands=aiosmtpd,
            needs=((sys.executable, "-c", "import aiosmtpd"),),
            features=frozenset({"8BITMIME", "SIZE", "SMTPUTF8"}),
            spoils=("long-lines",),  # refuses them
        ),
        Recipe(
            name="smtp-server",
            commands=smtp_server,
            needs=(("node",), ("npm",)),
            features=frozenset({"PIPELINING", "8BITMIME", "SIZE", "SMTPUTF8"}),
        ),
        Recipe(
            name="smtp-sink",
            commands=smtp_sink,
            needs=(("smtp-sink",),),
            secure=False,
            logins=False,  # it lists AUTH, and lets everybody in
            features=frozenset({"PIPELINING", "8BITMIME", "DSN"}),
            trace=trace("X-Client-Addr", "X-Client-Proto", "X-Helo-Args", "X-Mail-Args", "X-Rcpt-Args+", "Received"),
            unix=True,
            unknown=None,  # it takes everybody
            adds=b"\r\n",
        ),
        Recipe(name="smtp-trio", commands=ours, features=MATTER - {"DSN"}, unknown="nobody@elsewhere.example"),
    )
}
