"""What all tests share: an environment in which a test run does not disturb its neighbours."""

import os

import pytest

# Several tests run side by side on few cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("MEAP_THREADS", "1")
# Some tests fork this process, which OpenMP's threads do not survive.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")

pytest.register_assert_rewrite("tests.integration.parity")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first: of workers that share the files, none is left with a long one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
