"""Run the command line as `python -m s3backfs.cli`."""

from s3backfs.cli.main import main

main()
