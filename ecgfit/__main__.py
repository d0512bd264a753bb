"""`python -m ecgfit` is the command `ecgfit`."""

from ecgfit.cli import main

if __name__ == "__main__":
    main()
