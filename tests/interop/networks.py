"""A network of its own for mail servers, name servers and web servers, with their usual ports and any addresses."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

import trio
from attrs import field, frozen
from trio._core import _thread_cache

from .name_servers import run
from .programs import PATH
from .servers import POLL, START_TIMEOUT

P = ParamSpec("P")
T = TypeVar("T")

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000

NGINX = """\
daemon off;
master_process off;
user root;
pid {directory}/nginx.pid;
events {{}}
http {{
  access_log {directory}/access.log;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  default_type text/plain;
  ssl_certificate {directory}/$ssl_server_name.pem;
  ssl_certificate_key {directory}/$ssl_server_name.pem;
  root {directory}/$host;
  server {{
    listen {address}:443 ssl default_server;
  }}
  server {{
    listen {address}:443 ssl;
    server_name mta-sts.moved.*;
    return 301 https://mta-sts.{target}$request_uri;
  }}
  server {{
    listen {address}:443 ssl;
    server_name mta-sts.html.*;
    default_type text/html;
  }}
}}
"""


# A network namespace belongs to a thread, and the processes that the thread starts inherit it. So everything that uses the
# network runs in one thread, the only one of an executor: the programs are started by it, and so is `trio.run` for the
# client. A mount namespace gives it another /etc/resolv.conf. Both namespaces end with the thread and its programs.
# `os.unshare` is new in Python 3.12.
#
# Trio's worker threads inherit the namespace as well, and Trio keeps them for other runs: a later test, which is not in the
# network, would get one of them and not reach its own server. So the runs in the network have worker threads of their own.
# Trio has no public name for that.
@frozen
class Network:
    """A network and mount namespace, and the threads that are in it."""

    _thread: ThreadPoolExecutor
    _workers: _thread_cache.ThreadCache = field(factory=_thread_cache.ThreadCache)

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in the network, and return its result."""
        return self._thread.submit(function, *args, **kwargs).result()

    def enter(self, stack: ExitStack, manager: AbstractContextManager[T]) -> T:
        """Enter a context in the network, which the stack leaves."""
        return self.call(stack.enter_context, manager)

    def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run an async function in the network, and return its result."""
        others = _thread_cache.THREAD_CACHE
        _thread_cache.THREAD_CACHE = self._workers
        try:
            return self.call(trio.run, function)
        finally:
            _thread_cache.THREAD_CACHE = others


@contextmanager
def network(directory: Path, name_server: str, addresses: Iterable[str]) -> Iterator[Network]:
    """Make a network whose only interface, that for loopback, has the addresses. It has to be called as root.

    The name server is that of the system's configuration in it. Raises OSError or CalledProcessError if namespaces cannot
    be created.
    """
    configuration = directory / "resolv.conf"
    configuration.write_text(f"nameserver {name_server}\n")

    def enter() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET | CLONE_NEWNS):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        for command in (
            ["mount", "--make-rprivate", "/"],
            ["mount", "--bind", str(configuration), "/etc/resolv.conf"],
            ["ip", "link", "set", "lo", "up"],
            *(["ip", "address", "add", f"{address}/32", "dev", "lo"] for address in addresses),
        ):
            subprocess.run(command, check=True, capture_output=True, env={"PATH": PATH}, timeout=240)

    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(enter).result()
        yield Network(thread)


def wait_for_listener(address: str, port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a program accepts connections. Raises RuntimeError if it does not."""
    deadline = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection((address, port), timeout=5).close()
        except OSError:
            time.sleep(POLL)
        else:
            return
    raise RuntimeError(f"no connection to {address} {port}")


@contextmanager
def web_server(directory: Path, address: str, target: str) -> Iterator[Path]:
    """Run nginx at port 443 of an address; wait until it listens, and kill it at the end of the block.

    It reads the certificate of each host from ``<host>.pem``, and its files from ``<host>/``, when it needs them. Hosts whose
    name begins with "mta-sts.moved" redirect to ``target``, and those with "mta-sts.html" send HTML.
    """
    (directory / "nginx.conf").write_text(NGINX.format(directory=directory, address=address, target=target))
    process = run(directory, "nginx", "-e", "stderr", "-p", str(directory), "-c", str(directory / "nginx.conf"))
    try:
        wait_for_listener(address, 443, process)
        yield directory
    finally:
        process.kill()
        process.wait()
