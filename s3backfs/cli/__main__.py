"""Run the command line as `python -m s3backfs.cli`."""

from s3backfs.cli.entry import main

main()
