"""`python -m ecgprep`, the same as the command `ecgprep`."""

from ecgprep.cli import main

if __name__ == "__main__":
    main()
