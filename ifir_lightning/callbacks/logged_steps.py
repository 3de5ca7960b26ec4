"""Which steps callbacks log."""

from lightning import Trainer


def is_logged(trainer: Trainer) -> bool:
    """Whether the step that begins is one of every ``log_every_n_steps``, as Lightning counts them."""
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return bool(every) and (trainer.global_step + 1) % every == 0
