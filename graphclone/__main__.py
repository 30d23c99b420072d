"""`python -m graphclone`."""

from graphclone.cli import main

main()
