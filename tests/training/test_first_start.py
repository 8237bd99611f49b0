"""What only the first start on a machine does."""

import subprocess
import sys

READ = """
import sys
from meap_megatron.launch.flags import read_flags
flags = read_flags()
print(flags["num_layers"].type, sorted(name for name in sys.modules if name.partition(".")[0] in ("megatron", "torch")))
"""


def test_the_table_of_flags_is_read_without_importing_megatron_before_the_device_is_known(tmp_path, monkeypatch):
    monkeypatch.setenv("MEAP_CACHE", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", READ], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "int []"
    assert list((tmp_path / "meap_megatron").glob("flags-*.json"))
