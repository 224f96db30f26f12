"""Receive mail in an application: the server sends each message by HTTP before it answers its client.

    python examples/webhook.py DIRECTORY [port]
    smtp-trio serve --store http://127.0.0.1:8000/mail

The application writes the message to DIRECTORY/ID.eml and its envelope to DIRECTORY/ID.json, and its 200 becomes the 250 of
SMTP. For an address that it does not know, "nobody@...", it returns 404, which becomes 550. With the same secret in
the environment variable SMTP_TRIO_WEBHOOK_SECRET of both programs, it accepts requests of this server only. It uses nothing but the
standard library; a web framework parses the request for you (docs/webhooks.rst). Ctrl-C stops it.
"""

import base64
import hmac
import json
import os
import sys
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SECRET = os.environ.get("SMTP_TRIO_WEBHOOK_SECRET", "")
DIRECTORY = Path(sys.argv[1] if len(sys.argv) > 1 else "received")


class Application(BaseHTTPRequestHandler):
    """A web server with one page."""

    protocol_version = "HTTP/1.1"

    def do_OPTIONS(self) -> None:
        """Respond to the request by which the mail server finds out whether the application runs."""
        self.respond(204)

    def do_POST(self) -> None:
        """Receive a message."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.is_genuine(body):
            self.respond(503, "The signature does not match")  # a 4xx would bounce all mail if the secrets differ
            return
        boundary = self.headers.get_param("boundary", header="Content-Type")
        _, first, second, _ = body.split(f"--{boundary}".encode())
        envelope = first.partition(b"\r\n\r\n")[2]
        message = second.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
        recipients = [recipient["address"] for recipient in json.loads(envelope)["recipients"]]
        if any(address.startswith("nobody@") for address in recipients):
            self.respond(404, "No such user")  # the text becomes that of the 550
            return
        name = Path(self.headers["webhook-id"]).name
        self.save(f"{name}.eml", message)
        self.save(f"{name}.json", envelope)
        self.respond(200)

    def is_genuine(self, body: bytes) -> bool:
        """Return whether the request has the signature of this secret, and is not older than five minutes."""
        if not SECRET:
            return True
        timestamp = self.headers["webhook-timestamp"]
        signed = f"{self.headers['webhook-id']}.{timestamp}.".encode() + body
        digest = hmac.digest(base64.b64decode(SECRET.removeprefix("whsec_")), signed, "sha256")
        expected = f"v1,{base64.b64encode(digest).decode()}"
        signatures = (self.headers["webhook-signature"] or "").split()
        matches = [hmac.compare_digest(expected, signature) for signature in signatures]
        return any(matches) and abs(time.time() - int(timestamp)) < 300

    def save(self, name: str, octets: bytes) -> None:
        """Write a file so that it is complete, and survives a power cut: after the 250 the client has no copy any more."""
        temporary = DIRECTORY / f"{name}.tmp"
        with temporary.open("wb") as file:
            file.write(octets)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(DIRECTORY / name)
        directory = os.open(DIRECTORY, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)

    def respond(self, status: int, text: str = "") -> None:
        """Send a response."""
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *values: object) -> None:
        """Log nothing."""


if __name__ == "__main__":
    ThreadingHTTPServer.request_queue_size = 100  # by default it refuses connections while five wait
    DIRECTORY.mkdir(exist_ok=True)
    with ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2]) if len(sys.argv) > 2 else 8000), Application) as server:
        print("listening on port", server.server_port, flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
