"""``python -m policykd.cli``: the same as ``policykd``."""

from policykd.cli import main

if __name__ == "__main__":
    main()
