"""How smtp_trio is checked: `python -m nox` runs all of it, `nox -s NAME` one session, `nox -l` lists them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.11.12"
nox.options.default_venv_backend = "uv|virtualenv"
# A Python that is not here is left out, never fetched, and not an error even where CI=true would make it one.
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False

PROJECT = nox.project.load_toml("pyproject.toml")
# The running Python is on the list even if it is newer than the classifiers: the tests never pass by not being run.
RUNNING = f"{sys.version_info[0]}.{sys.version_info[1]}"
PYTHONS = list(dict.fromkeys([*nox.project.python_versions(PROJECT), RUNNING]))
FAST = "not crash and not interop"
PYTEST = ("python", "-bb", "-m", "pytest")


def group(name: str) -> tuple[str, ...]:
    return nox.project.dependency_groups(PROJECT, name)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The test suite, on every Python found; on all but the one that runs this without the slow ones."""
    session.install("-e", ".", *group("test"))
    session.run(*PYTEST, "-m", FAST if session.python == RUNNING else f"{FAST} and not slow", *session.posargs)


@nox.session
def core(session: nox.Session) -> None:
    """The core's own tests, without an event loop: every branch of smtp_trio/protocol is taken."""
    session.install("-e", ".", *group("test"))
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", "tests/protocol", *session.posargs)
    session.run("coverage", "report", "--include=smtp_trio/protocol/*", "--fail-under=100")


@nox.session
def interop(session: nox.Session) -> None:
    """Other people's mail programs deliver real messages; one that is not installed is skipped."""
    session.install("-e", ".", *group("test"))
    session.run(*PYTEST, "-m", "interop", *session.posargs)


@nox.session
def crash(session: nox.Session) -> None:
    """Kills, power-cut order and storage faults: no message that got its 250 is lost."""
    session.install("-e", ".", *group("test"))
    session.run(*PYTEST, "-m", "crash", *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the sdist, the wheel from it, and run the sdist's tests against the installed wheel."""
    session.install("build", *group("test"))
    built = Path(session.create_tmp())
    shutil.rmtree(built)
    session.run("python", "-m", "build", "--outdir", str(built))
    (sdist,), (whl,) = built.glob("*.tar.gz"), built.glob("*.whl")
    session.install("--force-reinstall", str(whl))  # a reused environment has an older build of the same version
    shutil.unpack_archive(sdist, built)
    tree = built / sdist.name.removesuffix(".tar.gz")
    shutil.rmtree(tree / "smtp_trio")  # so that nothing but the wheel can be imported
    session.chdir(tree)
    session.run(*PYTEST, "-m", f"{FAST} and not slow", *session.posargs)


@nox.session
def lowest(session: nox.Session) -> None:
    """The oldest versions that pyproject.toml allows, of the dependencies and of the test tools."""
    floors = [line.replace(">=", "==") for line in (*PROJECT["project"]["dependencies"], *group("test"))]
    session.install("-e", ".", *floors)
    session.run(*PYTEST, "-m", f"{FAST} and not slow", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: rules and format."""
    session.install(*[tool for tool in group("lint") if tool.startswith("ruff")])
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check", "--diff")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy in strict mode, and every public name typed for users (pyright)."""
    session.install("-e", ".", *group("test"), *group("lint"), *group("bench"), "nox")
    session.run("mypy", *session.posargs)
    session.run("pyright", "--verifytypes", "smtp_trio", "--ignoreexternal")


@nox.session
def docs(session: nox.Session) -> None:
    """The pages in docs/_build/html, and the changelog's draft; a warning is an error."""
    session.install("-e", ".", *group("docs"))
    session.run("sphinx-build", "-W", "--keep-going", "docs", "docs/_build/html", *session.posargs)
    session.run("towncrier", "build", "--draft")


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """The benchmarks, beside others' programs: tables and a picture for docs/. `-- --short` shows only that they run."""
    session.install("-e", ".", *group("bench"))
    session.run("python", "-m", "benchmarks", *(session.posargs or ["--write"]))


@nox.session(name="bench-short")
def bench_short(session: nox.Session) -> None:
    """The benchmarks' short form, which fails only when it does not run."""
    session.install("-e", ".", *group("bench"))
    session.run("python", "-m", "benchmarks", "--short")


@nox.session(default=False)
def conformance(session: nox.Session) -> None:
    """`smtp-trio conform` against others' servers, which must be there, and ours: the tables of docs/conformance."""
    session.install("-e", ".", *group("test"))
    session.run("python", "-m", "interop.tables", *session.posargs, env={"PYTHONPATH": "tests"})


if __name__ == "__main__":
    nox.main()
