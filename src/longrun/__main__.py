"""Run the command line as ``python -m longrun``."""

from longrun.cli.main import main

main()
