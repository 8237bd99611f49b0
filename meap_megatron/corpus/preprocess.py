"""Raw text to an indexed dataset: plan, encode in shards, publish. The job of `meap preprocess text`."""

import itertools
import sys
from pathlib import Path
from typing import Any

from meap_megatron.corpus.encode import choose_encoder, libraries
from meap_megatron.corpus.header import optimal_dtype
from meap_megatron.corpus.indexed import length_blocks, one_sequence_per_document
from meap_megatron.corpus.inputs import InputFile, find_inputs
from meap_megatron.corpus.parts import Parts, compare_plans, parts_path, read_plan
from meap_megatron.corpus.progress import Progress
from meap_megatron.corpus.publish import existing, publish
from meap_megatron.corpus.readers import PieceReader
from meap_megatron.corpus.settings import PreprocessConfig
from meap_megatron.corpus.shard import (
    LISTED,
    Shard,
    ShardJob,
    ShardResult,
    check_bad_lines,
    part_files,
    plan_shards,
    shard_bytes_for,
)
from meap_megatron.corpus.sidecar import Sidecar, check_prefix, sidecar_path
from meap_megatron.corpus.tokenizer import CorpusTokenizer, load_tokenizer, save_tokenizer
from meap_megatron.corpus.workers import available_cpus, run_shards
from meap_megatron.errors import UserError

SAMPLE_SHARDS = 16
SAMPLE_BYTES, SAMPLE_TEXT_BYTES = 2**16, 2**13  # of text per sampled shard and per document


def preprocess(config: PreprocessConfig) -> Sidecar:
    """Make the dataset of `config.prefix`.

    Returns:
        The sidecar of the finished dataset.

    Raises:
        UserError: an input, the tokenizer, the output or a line breaks a rule; nothing is left under final names.
        RunError: a worker died or the disk is full; the same command with `resume` goes on.
    """
    prefix = config.prefix
    tokenizer = load_tokenizer(
        config.tokenizer, mask_token=config.mask_token, bos_token=config.bos_token, eos_token=config.eos_token
    )
    bos_id, eos_id = _edges(config, tokenizer)
    files = find_inputs(config.inputs)
    size = config.shard_bytes or shard_bytes_for(files, parts=config.shard[1] if config.shard else 1)
    shards = list(enumerate(plan_shards(files, size)))
    if config.shard is not None:
        index, count = config.shard
        shards = shards[len(shards) * index // count : len(shards) * (index + 1) // count]
    plan = _plan(config, tokenizer, files, size)

    old = _old_plan(config)
    if old is None and config.resume and (done := _complete(prefix, tokenizer, config, files)):
        print(f"meap: {prefix} is complete already, nothing to do", file=sys.stderr)
        Parts(parts_path(prefix)).remove()
        return done
    if old is not None:
        encoder = old["encoder"]
        compare_plans(old, {**plan, "encoder": encoder}, prefix=prefix)
    else:
        _refuse_existing(config)
        encoder, reason = choose_encoder(config.encoder, tokenizer, _sample([shard for _, shard in shards], config))
        if reason and config.encoder == "auto":
            print(f"meap: note: gigatoken does not fit ({reason}); tokenizers is used, slower", file=sys.stderr)
    if config.overwrite and not config.resume:
        Parts(parts_path(prefix)).remove()
    parts = Parts(parts_path(prefix))
    try:
        return _run(config, parts, {**plan, "encoder": encoder}, tokenizer, shards, (bos_id, eos_id))
    except UserError:
        if not parts.finished(plan["dtype"]):
            parts.remove()
        raise
    finally:
        parts.close()


def _run(
    config: PreprocessConfig,
    parts: Parts,
    plan: dict[str, Any],
    tokenizer: CorpusTokenizer,
    shards: list[tuple[int, Shard]],
    edges: tuple[int | None, int | None],
) -> Sidecar:
    """Encode what is not finished yet, then publish."""
    prefix, dtype = config.prefix, plan["dtype"]
    parts.begin(plan)
    save_tokenizer(tokenizer, parts.folder / "tokenizer")
    job = ShardJob(
        folder=str(parts.folder),
        definition_file=str(parts.folder / "tokenizer" / "tokenizer.json"),
        encoder=plan["encoder"],
        key=config.json_key,
        bos_id=edges[0],
        eos_id=edges[1],
        special_ids=tokenizer.special_ids,
        vocab_size=tokenizer.info.vocab_size,
        bos_text=tokenizer.bos_token,
        dtype=dtype,
        max_bad_lines=config.max_bad_lines,
    )
    numbers = {number for number, _ in shards}
    results = {number: result for number, result in parts.finished(dtype).items() if number in numbers}
    _check_bad(results, config)
    if results:
        print(f"meap: resume: {len(results)} of {len(shards)} shards are finished", file=sys.stderr)
    waiting = [(number, shard) for number, shard in shards if number not in results]
    total = sum(piece.size for _, shard in shards for piece in shard)
    left = sum(piece.size for _, shard in waiting for piece in shard)
    progress = Progress(total, done_bytes=total - left)

    def finished(result: ShardResult) -> None:
        parts.add(result)
        results[result.shard] = result
        _check_bad(results, config)

    workers = config.workers or available_cpus()
    run_shards(job, waiting, workers=workers, advance=progress.advance, finished=finished)
    progress.finish()
    ordered = [results[number] for number, _ in shards]
    num_documents = sum(result.num_documents for result in ordered)
    _report(ordered, tokenizer)
    if num_documents == 0 and config.shard is None:
        parts.remove()
        raise UserError(f"the inputs hold no document with text: {', '.join(config.inputs)}")
    files = [part_files(parts.folder, result.shard) for result in ordered]
    sidecar = publish(
        prefix,
        sources=[tokens for tokens, _ in files],
        lengths=lambda: length_blocks(lengths for _, lengths in files),
        document_indices=lambda: one_sequence_per_document(num_documents),
        num_sequences=num_documents,
        num_documents=num_documents,
        dtype=dtype,
        tokenizer=tokenizer.info,
        save_tokenizer=lambda folder: save_tokenizer(tokenizer, folder),
        fields={
            "kind": "text",
            "add_bos": edges[0] is not None,
            "add_eos": edges[1] is not None,
            "libraries": libraries(plan["encoder"]),
        },
    )
    parts.remove()
    return sidecar


def _edges(config: PreprocessConfig, tokenizer: CorpusTokenizer) -> tuple[int | None, int | None]:
    """Return the ids that open and end a document."""
    info = tokenizer.info
    if config.add_eos and info.eos_id is None:
        raise UserError(
            f"tokenizer {config.tokenizer} has no EOS token; name one with --eos-token, or leave it out with --no-eos"
        )
    if config.add_bos and info.bos_id is None:
        print(
            "meap: note: the tokenizer has no BOS token; documents get EOS only (--bos-token names one)",
            file=sys.stderr,
        )
    return info.bos_id if config.add_bos else None, info.eos_id if config.add_eos else None


def _plan(config: PreprocessConfig, tokenizer: CorpusTokenizer, files: list[InputFile], size: int) -> dict[str, Any]:
    """Return all that decides the output's bytes; resume compares it."""
    return {
        "inputs": [[str(Path(file.path).absolute()), file.size, file.modified] for file in files],
        "json_key": config.json_key,
        "add_bos": config.add_bos,
        "add_eos": config.add_eos,
        "requested encoder": config.encoder,
        "shard": None if config.shard is None else list(config.shard),
        "shard_bytes": size,
        "tokenizer": tokenizer.info.fingerprint,
        "dtype": optimal_dtype(tokenizer.info.vocab_size),
    }


def _old_plan(config: PreprocessConfig) -> dict[str, Any] | None:
    """Return the plan of the unfinished run that is to be resumed; refuse leftovers of one that is not."""
    folder = parts_path(config.prefix)
    if not folder.exists() or (config.overwrite and not config.resume):
        return None
    plan = read_plan(folder)
    if not config.resume:
        raise UserError(f"{folder} holds an unfinished run: go on with --resume, or start anew with --overwrite")
    return plan


def _refuse_existing(config: PreprocessConfig) -> None:
    if not config.overwrite and (found := existing(config.prefix)):
        raise UserError(f"{found[0]} exists already; choose another --output, or replace it with --overwrite")


def _complete(
    prefix: str, tokenizer: CorpusTokenizer, config: PreprocessConfig, files: list[InputFile]
) -> Sidecar | None:
    """Return the sidecar when a run with these settings ended after its last step but before it could say so."""
    try:
        sidecar = check_prefix(prefix)
        made = sidecar_path(prefix).stat().st_mtime_ns
    except (UserError, OSError):
        return None
    same = (
        sidecar.tokenizer.fingerprint == tokenizer.info.fingerprint
        and sidecar.add_bos == (config.add_bos and tokenizer.info.bos_id is not None)
        and sidecar.add_eos == config.add_eos
        and all(file.modified < made for file in files)
    )
    return sidecar if same else None


def _sample(shards: list[Shard], config: PreprocessConfig) -> list[bytes]:
    """Return starts of documents from up to 16 shards spread over the input."""
    texts: list[bytes] = []
    step = max(1, len(shards) // SAMPLE_SHARDS)
    for shard in itertools.islice(shards, 0, None, step):
        size = 0
        for piece in shard:
            for _, text in PieceReader(piece, key=config.json_key):
                if isinstance(text, bytes):
                    # The start of a long document; a character may not be cut in two.
                    texts.append(text[:SAMPLE_TEXT_BYTES].decode("utf-8", "ignore").encode())
                    size += len(texts[-1])
                if size >= SAMPLE_BYTES:
                    break
            if size >= SAMPLE_BYTES:
                break
    return texts


def _check_bad(results: dict[int, ShardResult], config: PreprocessConfig) -> None:
    count = sum(result.num_bad for result in results.values())
    listed = [line for _, result in sorted(results.items()) for line in result.bad_lines]
    check_bad_lines(count, listed, config.max_bad_lines)


def _report(results: list[ShardResult], tokenizer: CorpusTokenizer) -> None:
    """Say on stderr what was skipped and what looks wrong."""
    bad = sum(result.num_bad for result in results)
    empty = sum(result.num_empty for result in results)
    doubled = sum(result.num_bos_text for result in results)
    if bad:
        lines = [line for result in results for line in result.bad_lines][:LISTED]
        print(f"meap: warning: {bad} bad lines skipped:\n  " + "\n  ".join(lines), file=sys.stderr)
        if bad > len(lines):
            print(f"  and {bad - len(lines)} more", file=sys.stderr)
    if empty:
        print(f"meap: note: {empty} empty documents skipped", file=sys.stderr)
    if doubled:
        place = next(result.bos_text_place for result in results if result.bos_text_place)
        print(
            f"meap: warning: {doubled} documents begin with the characters {tokenizer.bos_token!r} (first: {place}): "
            f"a doubled BOS? The characters are encoded as plain text; remove them from the input",
            file=sys.stderr,
        )
