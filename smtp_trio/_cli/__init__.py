"""The command line: ``smtp-trio`` and its subcommands."""
