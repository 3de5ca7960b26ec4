"""The command ``teach``: a teacher's scores of every row of a training table, for a loss that distils."""

import logging
from shlex import quote

from rich.console import Console

from ifir_lightning.commands.places import output_folder, usable_device
from ifir_lightning.data import formats
from ifir_lightning.data.teacher_cache import TeacherCache
from ifir_lightning.models.pairs import PairSettings
from ifir_lightning.teachers import TeacherKind, check_finite, load_teacher
from ifir_lightning.text_format import TextSettings

_log = logging.getLogger(__name__)


def teach(
    teacher: str,
    data: str,
    output: str,
    kind: TeacherKind = "retriever",
    pairs: PairSettings = PairSettings(),  # noqa: B008  (frozen)
    text: TextSettings = TextSettings(),  # noqa: B008
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
        text: of a retriever: limits of texts, prefixes and what else its checkpoint says otherwise.
        max_tokens: tokens computed at a time, padding included.
        device: where it computes, e.g. cuda:1; by default a GPU if there is one.
        trust_remote_code: allow the checkpoint to run code of its own.
    """
    cache_folder, place = output_folder(output), usable_device(device)
    table = formats.open_table(data)
    formats.check_table(table, data)
    loaded = load_teacher(teacher, kind, pairs, text, max_tokens, place, trust_remote_code)
    cache = TeacherCache(str(cache_folder), table, data)
    cache.begin(loaded.identity)
    for numbers in cache.missing():
        rows = [formats.to_row(record) for record in table.select(numbers)]
        scores = loaded(rows)
        check_finite(rows, scores)
        cache.write(numbers, rows, scores)
        cut = " and ".join(f"{number} {what}" for what, number in loaded.num_cut.items())
        _log.info("%s: %d of %d rows; limits have cut %s", output, numbers.stop, len(table), cut)
    Console(soft_wrap=True, markup=False).print(
        f"wrote {output}; train with --data.teacher_scores {quote(output)} and a loss that distils"
    )
