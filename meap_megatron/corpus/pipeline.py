"""A preprocessing run from start to end, whatever it makes: plan, encode in shards, publish; resume where it ended.

`preprocess` (text) and `sft.preprocess` (conversations) say what is made of a shard; how a run survives a kill, finds
its finished shards and refuses leftovers is here, once.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from meap_megatron.corpus import hub
from meap_megatron.corpus.concatenate import Joining
from meap_megatron.corpus.encode import choose_encoder
from meap_megatron.corpus.inputs import InputFile, Inputs
from meap_megatron.corpus.noted import merged, refuse_noted, summary
from meap_megatron.corpus.progress import Progress
from meap_megatron.corpus.settings import RunConfig
from meap_megatron.corpus.shard import LISTED, EncodeJob, Shard, ShardResult, check_bad_lines, part_files
from meap_megatron.corpus.work_folder import Parts, compare_plans, parts_path, plan_hash, read_plan
from meap_megatron.corpus.workers import available_cpus, run_shards
from meap_megatron.corpus.write_dataset import existing
from meap_megatron.errors import UserError
from meap_megatron.indexed.idx_header import optimal_dtype
from meap_megatron.indexed.sidecar import Sidecar, check_prefix
from meap_megatron.tokenizer.load import CorpusTokenizer

Numbered = tuple[int, Shard]


class PreprocessingWork[R: ShardResult](ABC):
    """What a kind of dataset adds to a run.

    Attributes:
        config: what was asked for.
        tokenizer: the extended tokenizer.
        inputs: the files, and what is not read.
        shards: (number, pieces) of this run.
        result_type: what a shard gives.
        plan: all that decides the output's bytes; resume compares it.
        joins_in_order: the .bin is all shards in their order, so that they can be joined as they are finished.
        joining: joins them, when `joins_in_order`; given by the run.
        unit: what the output consists of, for the message that there is none.
    """

    unit: str
    config: RunConfig
    tokenizer: CorpusTokenizer
    inputs: Inputs
    shards: list[Numbered]
    result_type: type[R]
    plan: dict[str, Any]
    joins_in_order: bool = False
    joining: Joining | None = None

    def encoding_tokenizer(self) -> CorpusTokenizer:
        """Return the tokenizer that the encoders are built from."""
        return self.tokenizer

    @abstractmethod
    def sample(self) -> list[bytes]:
        """Return texts of the input, for the comparison of the encoders."""

    @abstractmethod
    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer's folder."""

    @abstractmethod
    def job(self, folder: Path, encoder: str) -> EncodeJob:
        """Return the job of the workers; the tokenizer is in `folder`/tokenizer."""

    def upcoming(self, waiting: list[Numbered], results: dict[int, R]) -> Iterator[Numbered]:
        """Give the shards to encode, each when a worker is free for it.

        Args:
            waiting: shards without a result at the start.
            results: results so far; grows while the shards are given.
        """
        del results
        yield from waiting

    def report(self, results: list[R]) -> None:  # noqa: B027 (most have nothing to say)
        """Say on stderr what looks wrong."""

    @abstractmethod
    def outcome(self, results: list[R], kept: int) -> dict[str, Any]:
        """Return what `noted.summary` says of the rows: `unit`, `read`, `kept` (these) and `truncated`."""

    @property
    def dropped_texts(self) -> dict[str, str]:
        """What the kinds of rows are called that are dropped."""
        return {}

    @abstractmethod
    def publish(self, folder: Path, results: list[R], encoder: str) -> Sidecar:
        """Put the shards of the work folder under the final names."""


def base_plan(
    config: RunConfig, tokenizer: CorpusTokenizer, files: list[InputFile], shard_bytes: int
) -> dict[str, Any]:
    """Return the part of the plan that all kinds of datasets have."""
    return {
        "inputs": [[_named(file), file.size, file.modified] for file in files],
        "requested encoder": config.encoder,
        "shard": None if config.shard is None else list(config.shard),
        "shard_bytes": shard_bytes,
        "tokenizer": tokenizer.info.fingerprint,
        "dtype": optimal_dtype(tokenizer.info.vocab_size),
    }


def _named(file: InputFile) -> str:
    """Return where an input is, wherever `--resume` is called."""
    return file.path if file.kind == hub.KIND else str(Path(file.path).absolute())


def own_shards(shards: list[Shard], part: tuple[int, int] | None) -> list[Numbered]:
    """Number the shards and keep those of the i-th of n parts."""
    numbered = list(enumerate(shards))
    if part is None:
        return numbered
    index, count = part
    return numbered[len(shards) * index // count : len(shards) * (index + 1) // count]


def run_work[R: ShardResult](work: PreprocessingWork[R]) -> Sidecar:
    """Make the dataset, or go on with making it.

    Raises:
        UserError: the output exists, or a line breaks a rule; nothing is left under final names.
        RunError: a worker died or the disk is full; the same command with `resume` goes on.
    """
    config, prefix = work.config, work.config.prefix
    old = _old_plan(config)
    if old is None and config.resume and (done := _complete(work)):
        print(f"meap: {prefix} is complete already, nothing to do", file=sys.stderr)
        Parts(parts_path(prefix)).remove()
        return done
    if old is not None:
        encoder = old["encoder"]
        compare_plans(old, {**work.plan, "encoder": encoder}, prefix=prefix)
    else:
        if not config.overwrite and (found := existing(prefix)):
            made = _made_of(prefix) if config.resume else ""
            raise UserError(
                f"{found[0]} exists already{made}; --overwrite makes it anew, another --output leaves it as it is"
            )
        encoder, reason = choose_encoder(config.encoder, work.encoding_tokenizer(), work.sample())
        if reason and config.encoder == "auto":
            print(f"meap: note: gigatoken does not fit ({reason}); tokenizers is used, slower", file=sys.stderr)
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
        print(f"meap: resume: {len(results)} of {len(shards)} shards are finished", file=sys.stderr)
    waiting = [(number, shard) for number, shard in shards if number not in results]
    total = sum(piece.size for _, shard in shards for piece in shard)
    left = sum(piece.size for _, shard in waiting for piece in shard)
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
    job, upcoming = work.job(parts.folder, encoder), work.upcoming(waiting, results)
    run_shards(job, upcoming, workers=workers, advance=progress.advance, finished=finished)  # type: ignore[arg-type]
    progress.finish()
    ordered = [results[number] for number, _ in shards if number in results]
    _report_bad(ordered)
    work.report(ordered)
    if not sum(result.num_documents for result in ordered) and config.shard is None:
        parts.remove()
        lines = "\n".join(_summary(work, ordered, kept=0))
        said = work.outcome(ordered, kept=0)
        one = said["unit"].removesuffix("s")
        none = f"no {one} of the inputs can be used" if said["read"] else f"the inputs contain no {work.unit}"
        raise UserError(f"{none}: {', '.join(config.inputs)}\n{lines}")
    sidecar = work.publish(parts.folder, ordered, encoder)
    parts.remove()
    lines = "\n".join(_summary(work, ordered, kept=sidecar.num_documents))
    print(lines, file=sys.stderr)
    return sidecar


def _summary[R: ShardResult](work: PreprocessingWork[R], results: list[R], *, kept: int) -> Iterator[str]:
    """Give the lines that end a run."""
    lines = summary(
        files=work.inputs.files,
        skipped=work.inputs.skipped,
        bad=sum(result.num_bad for result in results),
        dropped=merged(result.dropped for result in results),
        unused=merged(result.unused for result in results),
        texts=work.dropped_texts,
        **work.outcome(results, kept),
    )
    return (line if line.startswith(" ") else f"meap: {line}" for line in lines)


def _old_plan(config: RunConfig) -> dict[str, Any] | None:
    """Return the plan of the unfinished run that is to be resumed; refuse leftovers of one that is not."""
    folder = parts_path(config.prefix)
    if not folder.exists() or (config.overwrite and not config.resume):
        return None
    plan = read_plan(folder)
    if not config.resume:
        raise UserError(f"{folder} holds an unfinished run: go on with --resume, or start anew with --overwrite")
    return plan


def _complete(work: PreprocessingWork[Any]) -> Sidecar | None:
    """Return the sidecar when a run of the same inputs and options ended, with or without saying so."""
    try:
        sidecar = check_prefix(work.config.prefix)
    except UserError:
        return None
    return sidecar if sidecar.plan == plan_hash(work.plan) else None


def _made_of(prefix: str) -> str:
    """Say why what stands under a prefix is not what `--resume` would go on with."""
    try:
        plan = check_prefix(prefix).plan
    except UserError as error:
        return f" and is no complete dataset ({error})"
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
        print(f"meap: warning: {bad} bad lines skipped:\n  " + "\n  ".join(lines), file=sys.stderr)
        if bad > len(lines):
            print(f"  and {bad - len(lines)} more", file=sys.stderr)
