"""`--overwrite` keeps an earlier demo until the new one is complete, and touches nothing else."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from meap_megatron.demo import output_folder
from meap_megatron.demo.output_folder import OWN_NAMES, room_for


class Killed(BaseException):
    """Ends a call as a signal does."""


def write(folder: Path, content: str) -> None:
    """Write all that a demo writes."""
    folder.mkdir(exist_ok=True)
    for name in OWN_NAMES:
        path = folder / name
        path.mkdir() if "." not in name else path.write_text(content)
        if path.is_dir():
            (path / "inner").write_text(content)


def contents(folder: Path) -> dict[str, str]:
    """File -> content, folders of the demo's own left out of the names."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_the_earlier_demo_goes_when_the_new_one_is_complete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "old")
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OSError), room_for(tmp_path, overwrite=True):
        assert {path.name for path in tmp_path.iterdir()} == {"mine.txt", output_folder.EARLIER}
        (tmp_path / "index.html").write_text("half")
        raise OSError
    assert f"the earlier demo is kept in {tmp_path / output_folder.EARLIER}" in capsys.readouterr().err
    assert set(contents(tmp_path / output_folder.EARLIER).values()) == {"old"}
    with room_for(tmp_path, overwrite=True):
        assert {path.name for path in tmp_path.iterdir()} == {"mine.txt", output_folder.EARLIER}
        write(tmp_path, "new")
    assert {path.name for path in tmp_path.iterdir()} == {"mine.txt", *OWN_NAMES}
    assert capsys.readouterr().err == ""


def test_killed_between_any_two_operations_the_old_demo_or_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, names = tmp_path / "demo", len(OWN_NAMES)
    left = [0]

    def killing(call: Any) -> Any:
        def limited(*args: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return call(*args, **options)

        return limited

    monkeypatch.setattr(os, "rename", killing(os.rename))
    monkeypatch.setattr(shutil, "rmtree", killing(shutil.rmtree))
    monkeypatch.setattr(Path, "unlink", killing(Path.unlink))
    ended = False
    for allowed in range(60):
        left[0] = 1000
        shutil.rmtree(folder, ignore_errors=True)
        write(folder, "old")
        done = [False]
        for number in (allowed, 1000):
            left[0] = number
            try:
                with room_for(folder, overwrite=True):
                    write(folder, "new")
                    done[0] = True
                ended = number == allowed
            except Killed:
                found = list(contents(folder).values())
                assert "new" in found if done[0] else found.count("old") == names
            if done[0] and number == allowed:
                break
        assert {path.name for path in folder.iterdir()} - {output_folder.REMOVED, output_folder.EARLIER} == set(
            OWN_NAMES
        )
        assert contents(folder / "runs") == {"inner": "new"}
        if ended:
            break
    assert ended
