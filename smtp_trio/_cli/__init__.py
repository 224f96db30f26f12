"""The command line: ``smtp-trio`` and its commands.

`entry.py` is where the process starts, and `main.py` parses the command line; `serve.py`, `send.py`, `conform.py` and
`conform_client.py` have a command each, with its options. `options.py` and `units.py` have what they share: the parser,
types of options, and the text of errors.

``serve`` has its options in `serve_options.py`, and makes the server from them in `new_server.py`. `recipients_option.py`
is for ``serve --recipients``, `workers.py` for ``serve --workers``, `passwd.py` for ``passwd`` and ``hash-password``.
Messages for ``send`` are found by `message_files.py` or composed by `new_message.py`; `send_report.py` prints the
outcomes, and `dialogue_printer.py` the dialogue for ``send --verbose``.
"""
