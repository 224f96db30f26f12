"""The command line: ``smtp-trio`` and its commands.

`main.py` has the entry point; `serve.py` and `send.py` have a command each, with its options. `workers.py` is for
``serve --workers``, `auth_file.py` for ``serve --auth-file`` and ``hash-password``, and `message_files.py` finds the
messages for ``send``.
"""
