"""``python -m ifir_lightning``."""

from ifir_lightning.cli import main
from ifir_lightning.distributed import record

if __name__ == "__main__":
    record(main)()
