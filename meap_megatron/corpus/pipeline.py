"""A preprocessing run from start to end, whatever it makes: plan, encode in shards, publish; resume where it ended.

`preprocess` (text) and `sft.preprocess` (conversations) say what is made of a shard; how a run survives a kill, finds
its finished shards and refuses leftovers is here, once.
"""

import sys
from collections.abc import Iterator
from typing import Any

from meap_megatron.corpus.concatenate import Joining
from meap_megatron.corpus.dataset_work import PreprocessingWork
from meap_megatron.corpus.encode import choose_encoder
from meap_megatron.corpus.inputs import skipped_lines
from meap_megatron.corpus.noted import merged, noted_lines, refuse_noted
from meap_megatron.corpus.progress import Progress
from meap_megatron.corpus.settings import RunConfig
from meap_megatron.corpus.shard import LISTED, ShardResult, check_bad_lines, part_files
from meap_megatron.corpus.terminal import say
from meap_megatron.corpus.work_folder import Parts, compare_plans, parts_path, plan_hash, read_plan
from meap_megatron.corpus.workers import available_cpus, run_shards
from meap_megatron.corpus.write_dataset import existing
from meap_megatron.errors import UserError, counted
from meap_megatron.indexed.sidecar import Sidecar, check_prefix


def run_work[R: ShardResult](work: PreprocessingWork[R]) -> Sidecar:
    """Make the dataset, or continue an unfinished run.

    Raises:
        UserError: the output exists, or a line breaks a rule; nothing is left under final names.
        RunError: a worker died or the disk is full; the same command with `resume` continues.
    """
    config, prefix = work.config, work.config.prefix
    old = _old_plan(config)
    if old is None and config.resume and (done := _complete(work)):
        say(f"{prefix} is complete already, nothing to do")
        Parts(parts_path(prefix)).remove()
        return done
    if old is not None:
        encoder = old["encoder"]
        compare_plans(old, {**work.plan, "encoder": encoder}, prefix=prefix)
    else:
        if not config.overwrite and (found := existing(prefix)):
            made = _made_of(prefix) if config.resume else ""
            raise UserError(
                f"{found[0]} exists already{made}", fix="replace it with --overwrite, or choose another --output"
            )
        encoder, reason = choose_encoder(config.encoder, work.encoding_tokenizer(), work.sample())
        if reason and config.encoder == "auto":
            say(f"note: gigatoken cannot be used ({reason}); falling back to tokenizers (slower)")
    if config.overwrite and not config.resume:
        Parts(parts_path(prefix)).remove()
    parts = Parts(parts_path(prefix))
    try:
        return _run(work, parts, encoder)
    except UserError:
        if not parts.finished(work.plan["dtype"], kind=work.result_type):
            parts.remove()
        raise
    finally:
        if work.joining is not None:
            work.joining.abandon()
        parts.close()


def _run[R: ShardResult](work: PreprocessingWork[R], parts: Parts, encoder: str) -> Sidecar:
    """Encode what is not finished yet, then publish."""
    config, shards = work.config, work.shards
    parts.begin({**work.plan, "encoder": encoder})
    work.save_tokenizer(parts.folder / "tokenizer")
    numbers = {number for number, _ in shards}
    known = parts.finished(work.plan["dtype"], kind=work.result_type)
    results = {number: result for number, result in known.items() if number in numbers}
    _check(work, results)
    if results:
        say(f"resume: {len(results)} of {len(shards)} shards are finished")
    waiting = [(number, shard) for number, shard in shards if number not in results]
    total = sum(chunk.size for _, shard in shards for chunk in shard)
    left = sum(chunk.size for _, shard in waiting for chunk in shard)
    progress = Progress(total, done_bytes=total - left)
    if work.joins_in_order:
        work.joining = Joining(parts.folder / "joined.tmp")
    in_order = iter([number for number, _ in shards])
    following = next(in_order, None)

    def join_finished() -> None:
        nonlocal following
        while work.joining is not None and following in results:
            work.joining.add(part_files(parts.folder, following)[0])
            following = next(in_order, None)

    def finished(result: R) -> None:
        results[result.shard] = result
        _check(work, results)
        parts.add(result)
        join_finished()

    join_finished()
    workers = min(config.workers or available_cpus(), len(waiting))
    loading, upcoming = work.shard_encoder(parts.folder, encoder), work.upcoming(waiting, results)
    run_shards(loading, upcoming, workers=workers, advance=progress.advance, finished=finished)  # type: ignore[arg-type]
    progress.finish()
    ordered = [results[number] for number, _ in shards if number in results]
    _report_bad(ordered)
    work.report(ordered)
    if not sum(result.num_documents for result in ordered) and config.shard is None:
        parts.remove()
        lines = "\n".join(_summary(work, ordered, kept=0))
        unit, read, _ = work.outcome(ordered)
        none = (
            f"no {unit.removesuffix('s')} of the inputs can be used" if read else f"the inputs contain no {work.unit}"
        )
        raise UserError(f"{none}: {', '.join(config.inputs)}\n{lines}")
    sidecar = work.publish(parts.folder, ordered, encoder)
    parts.remove()
    print("\n".join(_summary(work, ordered, kept=sidecar.num_documents)), file=sys.stderr)
    return sidecar


def _summary[R: ShardResult](work: PreprocessingWork[R], results: list[R], *, kept: int) -> Iterator[str]:
    """Give the lines that end a run: files and rows, and what became of those that were not used as they are."""
    files, skipped, texts = work.inputs.files, work.inputs.skipped, work.dropped_texts
    yield f"meap: {counted(len(files), 'file')} read" + (f", {len(skipped):,} skipped:" if skipped else "")
    yield from skipped_lines(skipped)
    dropped, unused = merged(result.dropped for result in results), merged(result.unused for result in results)
    bad = sum(result.num_bad for result in results)
    lost = bad + sum(count for count, *_ in dropped.values())
    unit, read, truncated = work.outcome(results)
    cut = f" ({truncated:,} truncated)" if truncated else ""
    read_text = counted(read, unit.removesuffix("s"))
    yield f"meap: {read_text} read, {kept:,} kept{cut}, {lost:,} dropped{':' * bool(lost)}"
    yield from noted_lines(dropped, files, texts)
    if bad:
        yield f"  invalid ({bad:,}): listed above"
    if unused:
        yield "meap: keys of records that are not used:"
        yield from noted_lines(unused, files, {})


def _old_plan(config: RunConfig) -> dict[str, Any] | None:
    """Return the plan of the unfinished run that is to be resumed; refuse leftovers of one that is not."""
    folder = parts_path(config.prefix)
    if not folder.exists() or (config.overwrite and not config.resume):
        return None
    plan = read_plan(folder)
    if not config.resume:
        raise UserError(
            f"{folder} contains an unfinished run", fix="continue with --resume or start over with --overwrite"
        )
    return plan


def _complete(work: PreprocessingWork[Any]) -> Sidecar | None:
    """Return the sidecar when a run of the same inputs and options ended, with or without saying so."""
    try:
        sidecar = check_prefix(work.config.prefix)
    except UserError:
        return None
    return sidecar if sidecar.plan == plan_hash(work.plan) else None


def _made_of(prefix: str) -> str:
    """Say why what exists under a prefix is not what `--resume` would continue."""
    try:
        plan = check_prefix(prefix).plan
    except UserError as error:
        return f" and is not a complete dataset ({error.problem})"
    if plan is None:
        return " and does not say what it was made from (merged, adopted, or made by an older version)"
    return " and was made from other inputs or options"


def _check[R: ShardResult](work: PreprocessingWork[R], results: dict[int, R]) -> None:
    """Refuse more bad lines than allowed and, if nothing may be lost, what would be."""
    ordered = [result for _, result in sorted(results.items())]
    count = sum(result.num_bad for result in ordered)
    check_bad_lines(count, [line for result in ordered for line in result.bad_lines], work.config.max_bad_lines)
    if work.config.strict:
        dropped, unused = merged(result.dropped for result in ordered), merged(result.unused for result in ordered)
        refuse_noted(dropped, unused, work.inputs.files, work.dropped_texts)


def _report_bad[R: ShardResult](results: list[R]) -> None:
    """Say on stderr what was skipped."""
    bad = sum(result.num_bad for result in results)
    if bad:
        lines = [line for result in results for line in result.bad_lines][:LISTED]
        more = [f"and {bad - len(lines)} more"] if bad > len(lines) else []
        say("\n  ".join([f"warning: {counted(bad, 'invalid line')} skipped:", *lines, *more]))
