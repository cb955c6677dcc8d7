"""The command `distens`, run as `python -m distens.cli`."""

from distens.cli.main import main

if __name__ == "__main__":
    main()
