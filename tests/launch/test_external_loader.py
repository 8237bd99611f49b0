"""An external dataloader is refused where it would read in another order, and where DALI is missing."""

import importlib.util
from types import SimpleNamespace

import pytest

from meap_megatron.errors import UserError
from meap_megatron.launch.external_loader import REFUSED, check


def arguments(**given):
    return SimpleNamespace(**dict.fromkeys(REFUSED, None) | given)


@pytest.mark.parametrize("name", ["full_validation", "phase_transition_iterations"])
def test_settings_that_change_the_order_are_refused(name):
    with pytest.raises(UserError, match=f"which {name} changes"):
        check(arguments(**{name: [4]}))


def test_without_dali_the_command_that_mends_it_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install nvidia-dali-cuda130"):
        check(arguments())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    check(arguments())
