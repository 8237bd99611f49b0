"""Data of the checks, made from what every Python installation has, without a network: text, conversations, random ids."""

from pathlib import Path

from benchmarks.gpu import process
from benchmarks.gpu.session import Session

TEXT_BYTES = 600_000
CONVERSATIONS = 400
LONGEST_ANSWER = 120
"""Characters, so that several conversations fit into a row."""
ROW = 512
RANDOM_VOCABULARY = 32_000
"""And `[MASK]`: the sizes of the paper's runs."""


def prepare(work: Path) -> None:
    """Make text and conversations, preprocessed by `meap preprocess`, unless they are there."""
    if (work / "data" / "done").exists():
        return
    from meap_megatron.cli.main import main
    from meap_megatron.demo.corpus import read_texts, standard_library, write_corpus
    from meap_megatron.tokenizer.train import train_tokenizer
    from tests.support.conversations import docstring_rows, write_alpaca

    folder = work / "data"
    corpus = write_corpus(folder / "text.jsonl", folder=standard_library(), byte_limit=TEXT_BYTES)
    tokenizer = folder / "tokenizer"
    train_tokenizer(read_texts(corpus.path), tokenizer, vocab_size=512)
    rows = tuple(row for row in docstring_rows(CONVERSATIONS) if len(row["output"]) < LONGEST_ANSWER)
    alpaca = write_alpaca(folder / "conversations.json", rows)
    common = ["--tokenizer", str(tokenizer), "--workers", "1", "--overwrite"]
    for options in (
        ["preprocess", "text", str(corpus.path), "--output", str(folder / "text"), *common],
        ["preprocess", "sft", str(alpaca), "--output", str(folder / "sft"), "--template", "alpaca",
         "--max-length", str(ROW + 1), *common],
    ):  # fmt: skip
        if status := main(options):
            raise SystemExit(status)
    (folder / "done").touch()


def text(session: Session) -> str:
    """Return the setting that names the text."""
    return f"data_path={session.common / 'data' / 'text'}"


def conversations(session: Session) -> Path:
    """Return the prefix of the conversations."""
    return session.common / "data" / "sft"


def random_ids(session: Session) -> str:
    """Return the setting that names random ids of the paper's vocabulary, made at the first use."""
    prefix = session.common / "data" / "random"
    if not Path(f"{prefix}.idx").exists():
        started = process.start(_write_random, prefix, device=session.device, log=session.work / "random.log")
        if process.wait(started, 120) != 0:
            raise RuntimeError(f"random data could not be written: {session.work / 'random.log'}")
    return f"data_path={prefix}"


def _write_random(prefix: Path) -> None:
    from benchmarks.random_data import write_data

    write_data(prefix, num_documents=1000, shortest=1500, longest=2500, mask_id=RANDOM_VOCABULARY)
