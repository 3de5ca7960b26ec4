"""The command ``teach``: a teacher's scores of every row of a training table, for a loss that distils."""

import logging

from rich.console import Console

from ifir_lightning.data import formats
from ifir_lightning.data.teacher_cache import TeacherCache
from ifir_lightning.models.pairs import PairSettings
from ifir_lightning.teachers import TeacherKind, load_teacher

_log = logging.getLogger(__name__)


def teach(
    teacher: str,
    data: str,
    output: str,
    kind: TeacherKind = "retriever",
    pairs: PairSettings = PairSettings(),  # noqa: B008  (frozen)
    max_tokens: int = 16384,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Write the scores that data.teacher_scores reads; started again, it continues where it was interrupted.

    Args:
        teacher: a folder or hub id owner/name[@revision]; for a retriever also a run folder or .ckpt file.
        data: the training table, as data.path of a recipe.
        output: folder of the scores: new, or one that the same command began.
        kind: retriever, cross-encoder (a sequence classifier), or causal (a language model that answers true or
            false). Scores of the last two are log-odds.
        pairs: how cross-encoders and causal models read a pair.
        max_tokens: tokens computed at a time, padding included.
        device: where it computes, e.g. cuda:1; by default a GPU if there is one.
        trust_remote_code: allow the checkpoint to run code of its own.
    """
    table = formats.open_table(data)
    formats.check_table(table, data)
    loaded = load_teacher(teacher, kind, pairs, max_tokens, device, trust_remote_code)
    cache = TeacherCache(output, table, data)
    cache.begin(loaded.identity)
    for numbers in cache.missing():
        rows = [formats.to_row(record) for record in table.select(numbers)]
        cache.write(numbers, rows, loaded(rows))
        _log.info("%s: %d of %d rows", output, numbers.stop, len(table))
    Console(soft_wrap=True).print(f"wrote {output}; train with --data.teacher_scores {output} and a loss that distils")
