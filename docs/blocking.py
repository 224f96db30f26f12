"""The core on a blocking socket: a server for one client, without an event loop."""

from __future__ import annotations

import socket

from smtp_trio.protocol import (
    CONNECTION_LOST,
    END_OF_BODY,
    END_OF_CHUNK,
    NEED_DATA,
    BadCommandError,
    Command,
    Reply,
    ServerProtocol,
)


def serve(client: socket.socket) -> None:
    """Serve one client, and print its messages."""
    protocol = ServerProtocol("mx.example.org")
    while not protocol.closed:
        try:
            event = protocol.next_event()
        except BadCommandError as refused:
            protocol.send_reply(refused.reply)
            if refused.close:
                break
            continue
        if event is NEED_DATA:
            client.sendall(protocol.data_to_send())
            protocol.receive_data(client.recv(65536))
        elif event is CONNECTION_LOST:
            return
        elif isinstance(event, bytes):
            print(event.decode(errors="replace"), end="")
        elif event is END_OF_BODY or event is END_OF_CHUNK:
            protocol.send_reply(protocol.fault or Reply(250, "Ok: printed", "2.0.0"))
        elif isinstance(event, Command) and not event.counted:  # BDAT: see END_OF_CHUNK
            # A complete server would call its application here.
            protocol.send_reply(protocol.default_reply(event))
    client.sendall(protocol.data_to_send())


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 2525)) as listener:
        while True:
            connection, _ = listener.accept()
            with connection:
                serve(connection)
