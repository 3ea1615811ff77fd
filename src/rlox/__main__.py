"""``python -m rlox`` is ``rlox``."""

from rlox.cli import main

if __name__ == "__main__":
    main()
