"""Two misspelt names, for mypy and pyright: each must report an error, so neither may call the comments below unnecessary."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

import smtp_trio

server = smtp_trio.Sevrer  # type: ignore[attr-defined]
connect = smtp_trio.conect  # type: ignore[attr-defined]
