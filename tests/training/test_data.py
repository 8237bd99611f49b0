"""Before loader workers are forked, the provider puts what is there out of the garbage collector's reach."""

import gc
import multiprocessing
from types import SimpleNamespace

import pytest

from meap_megatron.datasets import provider as datasets_provider
from meap_megatron.training import data

FORK = multiprocessing.get_context("fork")


@pytest.mark.parametrize(("num_workers", "frozen"), [(2, True), (0, False)])
def test_loader_workers_do_not_collect_what_they_share_with_the_trainer(
    monkeypatch: pytest.MonkeyPatch, num_workers: int, frozen: bool
) -> None:
    monkeypatch.setattr(data, "dataset_config", lambda *_: None)
    monkeypatch.setattr(datasets_provider, "build_datasets", lambda *_, **__: (None, None, None))
    args = SimpleNamespace(dataloader_type="single", num_workers=num_workers, dataloader_inter_document_masking=False)

    def build(answer) -> None:
        data.make_provider(args, [], lambda: None, SimpleNamespace())([8, 0, 0])
        answer.put((gc.get_freeze_count(), len(gc.get_objects())))

    answer = FORK.Queue()
    child = FORK.Process(target=build, args=(answer,))  # freezing is for ever: not in the process of the tests
    child.start()
    still, collected = answer.get(timeout=60)
    child.join()
    assert (still > 100 * collected) == frozen
