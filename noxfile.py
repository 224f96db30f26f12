"""Checks of smtp_trio. ``python -m nox -l`` lists the sessions.

    python -m nox -s quick   while you work: ruff, mypy, and the tests of the core, the server and the client
    python -m nox            what shows that an installation works: ruff, mypy, and the tests that take less than about a second
    python -m nox -t full    everything else: slow tests, other Pythons, other mail programs, crashes, packaging, documentation

``.ci/run`` runs the second and the third. Each test runs on the running Python. `wheel`, `pythons` and `lowest` repeat those of
the second command, with the built package, with every other Python and (most of them) with the oldest dependencies. `core`
repeats those of smtp_trio/protocol, to measure their coverage. Sessions with the tag `serial` use one core, and can run beside
the others.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.11.12"
nox.options.default_venv_backend = "uv|virtualenv"
# A Python version that is not installed is skipped. It is not downloaded, and it is not an error even where CI=true.
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False

PYPROJECT = Path("pyproject.toml")
PROJECT = nox.project.load_toml(PYPROJECT)
# The running Python, which `tests` uses, may be newer than the classifiers name.
RUNNING = f"{sys.version_info[0]}.{sys.version_info[1]}"
OTHERS = [version for version in nox.project.python_versions(PROJECT) if version != RUNNING]
# `wheel` is the session for the oldest other Python that is installed, and `pythons` for all others.
WHEEL = next((version for version in OTHERS if shutil.which(f"python{version}")), RUNNING)

PYTEST = ("python", "-bb", "-m", "pytest", "-q")
# Pytest rewrites the tests' assertions; without its cache in bytecode files, every process does that again.
CACHED: dict[str, str | None] = {"PYTHONDONTWRITEBYTECODE": None}
# The sessions `core`, `lowest` and `slow` try all examples.
FEW_EXAMPLES: dict[str, str | None] = {"HYPOTHESIS_PROFILE": "quick"}
# Two processes are enough for most of the gain, and tests that wait for a timeout need not wait for each other.
PARALLEL = ("-n", "2", "--dist", "worksteal")
FAST = ("-m", "not slow and not exhaustive and not crash and not interop")
SLOW = ("-m", "(slow or exhaustive) and not crash and not interop")
# What depends on the versions of other packages, and not only on those of Python and of this one. The core uses attrs only,
# and the other tests use the core.
OLD_VERSIONS = ("server", "client", "stores", "routing", "dsn", "credentials", "policies", "recipients", "testing")
OLD_VERSIONS_PATHS = tuple(f"tests/{name}" for name in OLD_VERSIONS)
QUICK_PATHS = ("tests/protocol", "tests/server", "tests/client", "tests/test_layers.py")


def group(name: str) -> tuple[str, ...]:
    """Return the requirements of a dependency group of pyproject.toml."""
    return nox.project.dependency_groups(PROJECT, name)


def install(session: nox.Session, *requirements: str) -> None:
    """Install the requirements, unless they already are in an environment that is being reused."""
    stamp = Path(session.virtualenv.location) / "installed.txt"
    wanted = "\n".join((*requirements, PYPROJECT.read_text(encoding="utf-8")))
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        session.install(*requirements)
        stamp.write_text(wanted, encoding="utf-8")


@nox.session(default=False, reuse_venv=True)
def quick(session: nox.Session) -> None:
    """Ruff, mypy, and the tests of the core, the server and the client; stops at the first failure."""
    install(session, "-e", ".", *group("lint"), *group("types"))
    session.run("ruff", "check", "-q")
    session.run("ruff", "format", "-q", "--check")
    session.run("mypy")
    session.run(*PYTEST, *PARALLEL, *FAST, "-x", *(session.posargs or QUICK_PATHS), env=FEW_EXAMPLES | CACHED)


@nox.session(reuse_venv=True)
def lint(session: nox.Session) -> None:
    """Ruff: rules and format."""
    install(session, *group("lint"))
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check", "--diff")


@nox.session(reuse_venv=True)
def types(session: nox.Session) -> None:
    """Mypy in strict mode, for the package, its tests, its tools, the examples, and the code in README.md and docs/."""
    install(session, "-e", ".", *group("types"))
    session.run("mypy", *session.posargs)
    session.run(*PYTEST, "tests/test_docs.py", "-k", "type_checker")


@nox.session
def tests(session: nox.Session) -> None:
    """The tests that are not slow and need no other program, on the Python that runs nox."""
    install(session, "-e", ".", *group("test"))
    session.run(*PYTEST, *PARALLEL, *FAST, *session.posargs, env=FEW_EXAMPLES | CACHED)


@nox.session(default=False, tags=["full", "serial"])
def pyright(session: nox.Session) -> None:
    """Pyright: every public name has a type, a misspelt one is an error, and the examples pass in strict mode."""
    install(session, "-e", ".", *group("test"), *group("pyright"))
    session.run("pyright", "--verifytypes", "smtp_trio", "--ignoreexternal")
    session.run("pyright")


@nox.session(default=False, tags=["full", "serial"])
def core(session: nox.Session) -> None:
    """The core's own tests, without an event loop: every branch of smtp_trio/protocol is taken."""
    install(session, "-e", ".", *group("test"))
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", "-q", "tests/protocol", *session.posargs)
    session.run("coverage", "report", "--include=smtp_trio/protocol/*", "--fail-under=100")


@nox.session(default=False, tags=["full", "serial"])
def docs(session: nox.Session) -> None:
    """The pages in docs/_build/html, and the changelog's draft; a warning is an error."""
    install(session, "-e", ".[redis,postgresql,http,web,otel]", *group("docs"))  # documented from the source
    session.run("sphinx-build", "-W", "--keep-going", "docs", "docs/_build/html", *session.posargs)
    session.run("towncrier", "build", "--draft")


@nox.session(default=False, tags=["full"])
def slow(session: nox.Session) -> None:
    """The slow and the exhaustive tests, which `tests` leaves out and which need no other program."""
    install(session, "-e", ".", *group("test"))
    session.run(*PYTEST, *PARALLEL, *SLOW, *session.posargs, env=CACHED)


@nox.session(default=False, python=[version for version in OTHERS if version != WHEEL], tags=["full"])
def pythons(session: nox.Session) -> None:
    """The tests of `tests`, on the other supported Pythons that are installed."""
    install(session, "-e", ".", *group("test"))
    session.run(*PYTEST, *PARALLEL, *FAST, *session.posargs, env=FEW_EXAMPLES | CACHED)


@nox.session(default=False, tags=["full"])
def lowest(session: nox.Session) -> None:
    """Most tests of `tests`, with the oldest versions that pyproject.toml allows of dependencies and test tools."""
    floors = [line.replace(">=", "==") for line in (*PROJECT["project"]["dependencies"], *group("test"))]
    install(session, "-e", ".", *floors)
    session.run(*PYTEST, *PARALLEL, *FAST, *(session.posargs or OLD_VERSIONS_PATHS), env=CACHED)


@nox.session(default=False, python=WHEEL, tags=["full"])
def wheel(session: nox.Session) -> None:
    """Build the sdist, the wheel from it, and run the sdist's tests with the installed wheel, on another Python if there is one.

    The tests of the core and the conformance cases are left out, to save time: they show nothing about the wheel, and run on
    the other Pythons.
    """
    session.install("build", *group("test"))
    # Not session.create_tmp(): that sets TMPDIR, to a path that may be too long for the unix sockets of tests.
    built = Path(session.virtualenv.location).resolve() / "built"
    shutil.rmtree(built, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(built))
    (sdist,), (whl,) = built.glob("*.tar.gz"), built.glob("*.whl")
    session.install("--force-reinstall", str(whl))  # a reused environment has an older build of the same version
    shutil.unpack_archive(sdist, built)
    tree = built / sdist.name.removesuffix(".tar.gz")
    shutil.rmtree(tree / "smtp_trio")  # so that only the wheel can be imported
    session.chdir(tree)
    left_out = ("--ignore=tests/protocol", "--ignore=tests/conform")
    session.run(*PYTEST, *PARALLEL, *FAST, *(session.posargs or left_out), env=FEW_EXAMPLES | CACHED)


@nox.session(default=False, tags=["full"])
def interop(session: nox.Session) -> None:
    """Other mail programs deliver real messages; one that is not installed is skipped."""
    install(session, "-e", ".", *group("interop"))
    session.run(*PYTEST, "-m", "interop", *session.posargs)


@nox.session(default=False)
def relay(session: nox.Session) -> None:
    """10,000 messages through a Postfix that refuses some and is killed in between; the short form is in `interop`."""
    install(session, "-e", ".", *group("test"))
    test = "tests/interop/test_relay.py"
    session.run(*PYTEST, "-s", "-m", "interop", test, *session.posargs, env={"SMTP_TRIO_RELAY_MESSAGES": "10000"})


@nox.session(default=False, tags=["full", "serial"])
def fuzz(session: nox.Session) -> None:
    """Atheris changes inputs of the core's parsers. `-- --seconds 600 --seed 0` for ten minutes with other ones."""
    install(session, "-e", ".", *group("fuzz"))
    session.run("python", "-m", "fuzz", *(session.posargs or ["--seconds", "30"]), env={"PYTHONPATH": "tests"})


@nox.session(default=False)
def audit(session: nox.Session) -> None:
    """Known vulnerabilities of the dependencies, including those of all extras."""
    session.install("-e", ".[dns]", "pip-audit")
    session.run("pip-audit", "--skip-editable", *session.posargs)


@nox.session(default=False, tags=["full", "serial"])
def crash(session: nox.Session) -> None:
    """Kills, power-cut order and storage faults: no message that was answered with 250 is lost."""
    install(session, "-e", ".", *group("test"))
    session.run(*PYTEST, "-m", "crash", *session.posargs)


@nox.session(default=False, name="bench-short", tags=["full", "serial"])
def bench_short(session: nox.Session) -> None:
    """The benchmarks' short form, which fails only when a benchmark does not run."""
    install(session, "-e", ".[redis,postgresql]", *group("bench"))
    session.run("python", "-m", "benchmarks", "--short")


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """The benchmarks, beside other servers and clients: tables and a picture for docs/. `-- --short` only runs each once."""
    install(session, "-e", ".[redis,postgresql]", *group("bench"))
    session.run("python", "-m", "benchmarks", *(session.posargs or ["--write"]))


@nox.session(default=False, name="attack-short", tags=["full", "serial"])
def attack_short(session: nox.Session) -> None:
    """How long an honest client has to wait while others attack the server; prints figures, in less than a minute."""
    install(session, "-e", ".", *group("bench"))
    session.run("python", "-m", "benchmarks.attack", "--short")


@nox.session(default=False)
def attack(session: nox.Session) -> None:
    """The same at length, and beside it aiosmtpd under the same attacks."""
    install(session, "-e", ".", *group("bench"))
    session.run("python", "-m", "benchmarks.attack", *session.posargs)


@nox.session(default=False, name="soak-short", tags=["full", "serial"])
def soak_short(session: nox.Session) -> None:
    """3,000 messages beside peers that misbehave: nothing is lost, and nothing is left; less than a minute."""
    install(session, "-e", ".", *group("bench"))
    session.run("python", "-m", "benchmarks.soak", "--short")


@nox.session(default=False)
def soak(session: nox.Session) -> None:
    """The same with 200,000 messages, and the server's memory does not grow; up to an hour."""
    install(session, "-e", ".", *group("bench"))
    session.run("python", "-m", "benchmarks.soak", *session.posargs)


@nox.session(default=False, name="memory-short", tags=["full", "serial"])
def memory_short(session: nox.Session) -> None:
    """60 large messages at the same time: the server stays within its memory budget; less than a minute."""
    install(session, "-e", ".", *group("bench"))
    session.run("python", "-m", "benchmarks.memory_budget", "--short")


@nox.session(default=False)
def memory(session: nox.Session) -> None:
    """The same with 1,000 messages of 100 MiB; needs mount namespaces and 8 GiB of disk, and takes up to an hour."""
    install(session, "-e", ".", *group("bench"))
    session.run("python", "-m", "benchmarks.memory_budget", *session.posargs)


@nox.session(name="scaling-short", default=False, tags=["full", "serial"])
def scaling_short(session: nox.Session) -> None:
    """Two intakes, two consumers and a replicated engine on eight hosts, of which three are killed; about a minute."""
    install(session, "-e", ".[redis,postgresql]", *group("bench"))
    session.run("python", "-m", "benchmarks.scaling", "--short")


@nox.session(default=False)
def scaling(session: nox.Session) -> None:
    """The same with 20,000 messages, and an intake, a consumer and the primary killed five times; six minutes, as root."""
    install(session, "-e", ".[redis,postgresql]", *group("bench"))
    session.run("python", "-m", "benchmarks.scaling", *session.posargs)


@nox.session(default=False)
def conformance(session: nox.Session) -> None:
    """`smtp-trio conform` against other servers, which must be installed, and this one: the tables of docs/conformance."""
    install(session, "-e", ".", *group("test"))
    session.run("python", "-m", "interop.tables", *session.posargs, env={"PYTHONPATH": "tests"})


if __name__ == "__main__":
    nox.main()
