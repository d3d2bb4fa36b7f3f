"""The `lmplan` command: one module a command, each of them parse, one call, print."""
