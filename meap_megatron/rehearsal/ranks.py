"""Which ranks are rehearsed."""

from meap_megatron.errors import UserError
from meap_megatron.rehearsal.job import RehearsedJob


def default(job: RehearsedJob) -> list[int]:
    """Return the first rank, the first one of the middle pipeline stage, and the last one: every kind of stage."""
    layout = job.layout
    # Megatron numbers tensor, context, data, pipeline from the inside out, or pipeline before data.
    inside = layout.tensor * layout.context
    stride = inside if job.settings.on("use_tp_pp_dp_mapping") else layout.world // layout.pipeline
    middle = layout.pipeline // 2 * stride if layout.pipeline > 2 else 0
    return sorted({0, middle, layout.world - 1})


def parse(text: str, job: RehearsedJob) -> list[int]:
    """Return the ranks of a list such as "0,5,1023".

    Raises:
        UserError: it is not such a list, or a rank is not one of the job's.
    """
    numbers = [number.strip() for number in text.split(",")]
    if not all(number.isdecimal() for number in numbers):
        raise UserError(f"--ranks {text} is not a list of numbers such as 0,5,{job.layout.world - 1}")
    ranks = list(dict.fromkeys(int(number) for number in numbers))
    if max(ranks) >= job.layout.world:
        raise UserError(f"--ranks {text}: the job has ranks 0 to {job.layout.world - 1:,}")
    return ranks
