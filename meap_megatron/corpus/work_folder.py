"""The work folder `PREFIX.parts/`: finished shards and a manifest that says which they are.

The first line of `manifest.jsonl` is the plan (inputs, options, tokenizer), every further line a finished shard. A
line is written only after the shard's files are complete, and a torn last line counts as not written: after a kill at
any moment the manifest names nothing that is not there.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import IO, Any

from meap_megatron.atomic import disk_errors
from meap_megatron.corpus.shard import ShardResult
from meap_megatron.errors import UserError


def parts_path(prefix: str | Path) -> Path:
    """Return `PREFIX.parts`."""
    return Path(f"{prefix}.parts")


class Parts:
    """An open work folder; holds a lock until `close`, so that two runs never write to one prefix."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = folder / "manifest.jsonl"
        self._stream: IO[bytes] | None = None
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._lock: IO[bytes] = (folder / "lock").open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise UserError(f"another run is writing to {folder}", fix="wait for it or stop it") from None
        except OSError:
            pass  # a file system without locks
        for path in folder.glob("*.tmp"):
            path.unlink(missing_ok=True)

    def begin(self, plan: dict[str, Any]) -> None:
        """Open the manifest for appending; write its first line unless it is there."""
        known = read_plan(self.folder) is not None
        with disk_errors(self.manifest):
            self._stream = self.manifest.open("ab")
            raw = self.manifest.read_bytes() if known else b""
            self._stream.truncate(raw.rfind(b"\n") + 1)  # a torn line of a killed run
            if not known:
                self._append({"plan": plan})

    def add(self, result: ShardResult) -> None:
        """Record a finished shard."""
        with disk_errors(self.manifest):
            self._append({"done": dataclasses.asdict(result)})

    def finished[R: ShardResult](self, dtype: str, *, kind: type[R]) -> dict[int, R]:
        """Return the finished shards whose files have the recorded sizes."""
        results: dict[int, R] = {}
        names = {field.name for field in dataclasses.fields(kind)}
        for record in _records(self.manifest)[1:]:
            if (done := record.get("done", {})).keys() != names:
                continue  # of another version
            with contextlib.suppress(OSError):
                result = kind(**done)
                sizes = result.files(self.folder, dtype=dtype)
                if all(path.stat().st_size == size for path, size in sizes.items()):
                    results[result.shard] = result
        return results

    def close(self) -> None:
        """Release the lock and leave the folder for a later `--resume`."""
        for stream in (self._stream, self._lock):
            if stream is not None:
                with contextlib.suppress(OSError):  # the disk is full
                    stream.close()

    def remove(self) -> None:
        """Delete the folder: the manifest first, so that a half-deleted folder is not taken for an unfinished run."""
        self.close()
        self.manifest.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _append(self, record: dict[str, Any]) -> None:
        assert self._stream is not None, "begin() comes first"
        self._stream.write(json.dumps(record).encode() + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())


def read_plan(folder: Path) -> dict[str, Any] | None:
    """Return the plan of an unfinished run, or None if its manifest never began."""
    records = _records(folder / "manifest.jsonl")
    return records[0].get("plan") if records else None


def _records(manifest: Path) -> list[dict[str, Any]]:
    try:
        lines = manifest.read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines]
    except (FileNotFoundError, ValueError):
        return []


def plan_hash(plan: dict[str, Any]) -> str:
    """Return the SHA-256 (hex) of what decides a finished dataset: `compare_plans`, with two differences.

    Of an input's path only the name counts, so that moved inputs are the same ones. The size of the unit of work counts
    only where it decides which documents belong to a part.
    """
    inputs = [[Path(path).name, size, modified] for path, size, modified in plan["inputs"]]
    unit = None if plan["shard"] is None else plan["shard_bytes"]
    made_of = {**plan, "inputs": inputs, "shard_bytes": unit}
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def compare_plans(old: dict[str, Any], new: dict[str, Any], *, prefix: str) -> None:
    """Refuse to resume a run with another plan.

    Raises:
        UserError: names the first difference.
    """
    for name in sorted(old.keys() | new.keys()):
        if name != "inputs" and old.get(name) != new.get(name):
            raise UserError(
                f"--resume: {name} is {new.get(name)!r}, the unfinished run of {prefix} had {old.get(name)!r}",
                fix="repeat its options, or start over with --overwrite",
            )
    for before, now in zip(old["inputs"], new["inputs"], strict=False):
        if before != now:
            raise UserError(
                f"--resume: input {now[0]} changed since the unfinished run of {prefix} "
                f"(then {before}, now {now}: path, bytes, time)",
                fix="start over with --overwrite",
            )
    if len(old["inputs"]) != len(new["inputs"]):
        raise UserError(
            f"--resume: there are {len(new['inputs'])} input files, the unfinished run of {prefix} had "
            f"{len(old['inputs'])}",
            fix="start over with --overwrite",
        )
