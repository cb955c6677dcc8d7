"""`python -m distens.cli` is `distens`."""

from distens.cli.main import main

if __name__ == "__main__":
    main()
