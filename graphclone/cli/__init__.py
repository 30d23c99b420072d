"""The command line. Nothing heavy is imported before a command needs it, so that `graphclone --help` is quick."""

from graphclone.cli.app import main

__all__ = ["main"]
