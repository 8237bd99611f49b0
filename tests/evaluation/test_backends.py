"""Precision follows the device, and vLLM is asked the same questions, with a stand-in for vLLM itself."""

import importlib.metadata
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from meap_megatron.cli.main import main
from meap_megatron.evaluation.session import choose_dtype


def saved_in(folder: Path, dtype: str) -> Path:
    transformers.LlamaConfig(num_hidden_layers=1, dtype=dtype).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("saved", "device", "instructions", "used"),
    [
        ("bfloat16", "cpu", {"avx512_bf16": False}, "float32"),
        ("bfloat16", "cpu", {"amx_bf16": True}, "bfloat16"),
        ("float16", "cpu", {"amx_bf16": True}, "float32"),
        ("float32", "cpu", {"amx_bf16": True}, "float32"),
        ("float32", "cuda:1", {}, "bfloat16"),
        ("bfloat16", "cuda", {}, "bfloat16"),
        ("float16", "cuda", {}, "float16"),
    ],
)
def test_the_precision_is_the_one_that_the_device_computes_fast(
    saved: str,
    device: str,
    instructions: dict[str, bool],
    used: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions, raising=False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    folder = saved_in(tmp_path, saved)
    assert choose_dtype(folder, requested="auto", device=device) == used
    assert (f"saved in {saved}, evaluated in {used} (--dtype {saved} keeps it)" in capsys.readouterr().err) == (
        saved != used
    )
    assert choose_dtype(folder, requested="float16", device=device) == "float16"


def test_a_gpu_without_bfloat16_keeps_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert choose_dtype(saved_in(tmp_path, "float32"), requested="auto", device="cuda") == "float32"


def needle(model: Path, essays: Path, out: Path, *options: str) -> int:
    grid = ["--lengths", "512", "--depths", "0,100", "--variants", "1"]
    return main(["evaluate", "needle", "-m", str(model), "-o", str(out), "--essays", str(essays), *grid, *options])


def test_vllm_is_refused_where_it_cannot_be_used(
    tiny_model: Path, essays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert needle(tiny_model, essays, tmp_path, "--backend", "vllm") == 2
    assert "--backend vllm needs vLLM, and it is not installed\n  fix: pip install vllm" in capsys.readouterr().err
    stand_in(monkeypatch)
    words = ["evaluate", "all", "-m", str(tiny_model), "-o", str(tmp_path), "--baseline", "b", "--backend", "vllm"]
    assert main(words) == 2
    assert "suite text-loss looks into the model\n  fix: use --backend hf for it" in capsys.readouterr().err


def test_vllm_gets_the_prompts_and_ends_of_the_model_and_gives_its_answers(
    tiny_model: Path, essays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert needle(tiny_model, essays, tmp_path / "hf", "--device", "cpu") == 0
    asked = stand_in(monkeypatch)
    assert needle(tiny_model, essays, tmp_path / "vllm", "--backend", "vllm") == 0
    hf, vllm = (json.loads((tmp_path / name / "needle.json").read_text()) for name in ("hf", "vllm"))
    assert vllm["tasks"] == hf["tasks"]
    assert vllm["model"] == {**hf["model"], "device": "cuda", "backend": "vllm"}
    assert asked["made"]["generation_config"] == "vllm" and asked["made"]["max_model_len"] == 2048
    assert all(one.stop_token_ids == hf["decoding"]["eos_token_id"] for one in asked["settings"])
    assert all(one.temperature == 0 and one.max_tokens == 50 for one in asked["settings"])
    # Results of one backend, precision or limit are not taken for those of another.
    for other in (["--backend", "vllm"], ["--dtype", "float64"], ["--max-length", "1024"]):
        assert needle(tiny_model, essays, tmp_path / "hf", "--device", "cpu", *other) == 2


def stand_in(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Put a module in the place of vLLM that answers with transformers; return what it is asked."""
    asked: dict[str, Any] = {"settings": []}

    class LLM:
        def __init__(self, model: str, **options: Any) -> None:
            asked["made"] = options
            self.model = transformers.AutoModelForCausalLM.from_pretrained(model)
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(model)
            self.llm_engine = SimpleNamespace(
                model_config=SimpleNamespace(max_model_len=options["max_model_len"]),
            )

        def generate(self, prompts: list[Any], sampling_params: list[Any], use_tqdm: bool, **_: Any) -> list[Any]:
            assert not use_tqdm
            asked["settings"] += sampling_params
            return [self.answer(*one) for one in zip(prompts, sampling_params, strict=True)]

        def answer(self, prompt: Any, settings: Any) -> Any:
            ids = torch.tensor([prompt.prompt_token_ids])
            ends = settings.stop_token_ids
            made = self.model.generate(ids, max_new_tokens=settings.max_tokens, do_sample=False, eos_token_id=ends)
            text = self.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=settings.skip_special_tokens)
            return SimpleNamespace(outputs=[SimpleNamespace(text=text)])

    def module(name: str, **content: Any) -> None:
        made = ModuleType(name)
        made.__dict__.update(content, __spec__=SimpleNamespace(name=name))
        monkeypatch.setitem(sys.modules, name, made)

    def tokenizer_of(name: str, tokenizer_mode: str, revision: Any, **options: Any) -> Any:
        return transformers.AutoTokenizer.from_pretrained(name, **options)

    module("vllm", LLM=LLM, SamplingParams=SimpleNamespace, TokensPrompt=SimpleNamespace, __path__=[])
    module("vllm.lora", __path__=[])
    module("vllm.lora.request", LoRARequest=SimpleNamespace)
    module("vllm.renderers", __path__=[])
    module("vllm.renderers.hf", resolve_chat_template=lambda **_: None)
    module("vllm.tokenizers", get_tokenizer=tokenizer_of)
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.20.0" if name == "vllm" else version(name))
    monkeypatch.delitem(sys.modules, "lm_eval.models.vllm_causallms", raising=False)
    return asked
