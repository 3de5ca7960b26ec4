"""``python -m ifir_lightning``."""

import signal
import sys

if __name__ == "__main__":
    if sys.argv[1:2] == ["fit"]:  # SIGUSR1 waits until the run can answer it (Interruption.listen), and kills no import
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    from ifir_lightning.cli import main
    from ifir_lightning.distributed import record

    record(main)()
