"""``python -m ifir_lightning``."""

from ifir_lightning.cli import main

if __name__ == "__main__":
    main()
