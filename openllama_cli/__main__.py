"""`python -m openllama_cli` is `olc`."""

from openllama_cli.cli import main

if __name__ == "__main__":
    main()
