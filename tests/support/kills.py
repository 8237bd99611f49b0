"""A run that ends without any clean-up before a chosen change of a file, as a kill at that moment would."""

import os
import sys
from collections.abc import Callable
from pathlib import Path


def finishes_before_step(run: Callable[[], object], folder: Path, step: int) -> bool:
    """Call `run` in a forked child that ends before its n-th change of a file below `folder`; True if it finished."""
    child = os.fork()
    if child == 0:
        left = step

        def hook(event: str, arguments: tuple) -> None:
            nonlocal left
            changes = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
            opened = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wa+")
            # shutil.rmtree names what it removes relative to an open folder.
            here = str(arguments[0]).startswith(str(folder)) if arguments else False
            relative = event in ("os.remove", "os.rmdir") and "/" not in str(arguments[0])
            if (event in changes or opened) and (here or relative):
                left -= 1
                if left < 0:
                    os._exit(9)

        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        sys.addaudithook(hook)
        try:
            run()
        except BaseException:
            os._exit(7)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9), f"the run itself failed at step {step}"
    return status == 0
