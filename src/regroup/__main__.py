"""`python -m regroup` is the command `regroup`."""

from regroup.cli import main

main()
