"""Models trained on conversations are asked through their chat template, base models plainly, and all decode greedily."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from meap_megatron.cli.main import main
from meap_megatron.errors import UserError
from meap_megatron.evaluation import prompt_format
from meap_megatron.evaluation.prompt_length import load_measure, load_tokenizer
from tests.evaluation.fakes import evaluated
from tests.support.conversations import write_chat_tokenizer

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
IM_END, END_OF_TEXT = 6, 1  # ids in `write_chat_tokenizer`


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_tokenizer(tmp_path_factory.mktemp("chatml"), chat_template=CHATML)


@pytest.fixture
def model(tokenizer: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tokenizer, tmp_path / "model"))


def write(folder: Path, name: str, **content: Any) -> None:
    (folder / name).write_text(json.dumps(content))


def decide(folder: Path, requested: bool | None = None) -> prompt_format.ChatPolicy:
    return prompt_format.decide(folder, load_tokenizer(str(folder)), requested=requested)


def test_an_instruction_tuned_model_stops_where_its_template_ends_and_a_base_model_does_not(model: Path) -> None:
    write(model, "generation_config.json", eos_token_id=[IM_END, END_OF_TEXT])
    assert decide(model).apply and decide(model).stop_ids == (IM_END,)
    write(model, "generation_config.json", eos_token_id=END_OF_TEXT)
    found = decide(model)
    assert not found.apply and "base model" in found.source
    assert decide(model, True).apply
    assert decide(model, True).stop_ids == (IM_END,)


def test_a_model_that_was_trained_here_is_asked_as_its_data_were_written(model: Path) -> None:
    write(model, "meap_eval.json", format_version=1, data_kind="sft", template="chatml")
    assert decide(model).apply and "template 'chatml'" in decide(model).source
    assert not decide(model, False).apply
    write(model, "generation_config.json", eos_token_id=IM_END)
    write(model, "meap_eval.json", format_version=1, data_kind="text")
    assert not decide(model).apply


def test_a_model_without_a_template_cannot_be_asked_through_one(model: Path) -> None:
    config = json.loads((model / "tokenizer_config.json").read_text())
    del config["chat_template"]
    write(model, "tokenizer_config.json", **config)
    assert not decide(model).apply
    with pytest.raises(UserError, match="--apply-chat-template needs a chat template"):
        decide(model, True)
    write(model, "meap_eval.json", format_version=1, data_kind="sft", template="chatml")
    with pytest.raises(UserError, match="fine-tuned with the template 'chatml'.*export the model again"):
        decide(model)


def test_lengths_count_the_template_and_no_bos_is_added_to_it(tokenizer: Path) -> None:
    plain = load_measure({"tokenizer": str(tokenizer), "max_length": 64})
    measure = load_measure({"tokenizer": str(tokenizer), "max_length": 64, "chat_template": True})
    loaded = load_tokenizer(str(tokenizer))
    ids = loaded.apply_chat_template(
        [{"role": "user", "content": "what is this"}], add_generation_prompt=True, return_dict=False
    )
    assert measure.count("what is this") == len(ids) > plain.count("what is this")
    assert loaded(measure.wrap("what is this"), add_special_tokens=False).input_ids == ids
    text = "abcdefgh " * 5
    room = 64 - plain.count(text)
    assert plain.fits(text, new_tokens=room) and not measure.fits(text, new_tokens=room)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    """A random model whose files ask for a repetition penalty and for sampling."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("chat_model")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=1024, max_position_embeddings=2048, **sizes))
    model.save_pretrained(folder)
    shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
    settings = {"repetition_penalty": 1.1, "do_sample": True, "temperature": 0.7, "suppress_tokens": [9]}
    write(folder, "generation_config.json", eos_token_id=[END_OF_TEXT, IM_END], **settings)
    return folder


def needle(model: Path, essays: Path, out: Path, *options: str, status: int = 0) -> dict[str, Any]:
    grid = {"lengths": 512, "depths": 0, "variants": 1}
    return evaluated("needle", out, *options, status=status, model=model, essays=essays, **grid)


def test_prompts_go_through_the_template_and_decoding_is_ours(
    chat_model: Path, essays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from meap_megatron.evaluation import shared_prefix

    seen: list[tuple[list[int], Any, Any]] = []
    real = shared_prefix.answers

    def answers(model: Any, prompts: list[list[int]], **options: Any) -> Any:
        seen.extend((prompt, model.generation_config, options) for prompt in prompts)
        return real(model, prompts, **options)

    monkeypatch.setattr(shared_prefix, "answers", answers)
    content = needle(chat_model, essays, tmp_path / "chat")
    assert content["chat_template"]["applied"] and content["bos"] == {"add_bos": False, "source": "chat template"}
    loaded = load_tokenizer(str(chat_model))
    for ids, decoding, options in seen:
        text = loaded.decode(ids)
        assert text.startswith("<|im_start|>user\nThis is a very long story book")
        assert text.endswith("<|im_end|>\n<|im_start|>assistant\n") and len(ids) <= 512 - 50
        assert decoding.repetition_penalty in (None, 1.0) and not decoding.do_sample
        assert decoding.suppress_tokens == [9] and set(decoding.eos_token_id) == {END_OF_TEXT, IM_END}
        assert options["never"] == [9] and options["ends"] == {END_OF_TEXT, IM_END}
    assert content["decoding"]["ignored"] == {"repetition_penalty": 1.1, "temperature": 0.7, "do_sample": True}
    assert content["decoding"]["eos_token_id"] == [END_OF_TEXT, IM_END]
    # The same command asks nothing; the other way of asking is another run.
    asked = len(seen)
    assert needle(chat_model, essays, tmp_path / "chat") == content and len(seen) == asked
    needle(chat_model, essays, tmp_path / "chat", "--no-apply-chat-template", status=2)
    assert "results of another model or of other settings" in capsys.readouterr().err
    plain = needle(chat_model, essays, tmp_path / "plain", "--no-apply-chat-template")
    assert plain["chat_template"] == {"applied": False, "source": "--no-apply-chat-template"}
    text = loaded.decode(seen[asked][0]).removeprefix("<|begin_of_text|>")  # as the tokenizer does by itself
    assert text.startswith("<|im_start|> This is a very long story book")


def test_a_judge_on_this_machine_decodes_greedily_too(chat_model: Path) -> None:
    from meap_megatron.evaluation.hallucination.judge_local import LocalJudge

    settings = LocalJudge(chat_model, device="cpu").model.generation_config
    assert settings.repetition_penalty in (None, 1.0) and not settings.do_sample and IM_END in settings.eos_token_id


def test_many_empty_answers_are_a_warning(
    chat_model: Path, essays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from meap_megatron.evaluation.harness_model import SharedPrefixLM

    assert prompt_format.empty_answers(["a", "b", "c", "d", " "], applied=True) is None
    monkeypatch.setattr(SharedPrefixLM, "generate_until", lambda self, requests, disable_tqdm: [" \n"] * len(requests))
    content = needle(chat_model, essays, tmp_path / "out", "--no-apply-chat-template")
    assert content["warnings"][0].startswith("2 of 2 answers are empty; a model trained on conversations")
    assert "(--apply-chat-template)" in capsys.readouterr().err


def test_a_killed_overwrite_keeps_the_earlier_results(chat_model: Path, essays: Path, tmp_path: Path) -> None:
    from meap_megatron.evaluation import harness

    out = tmp_path / "out"
    before = needle(chat_model, essays, out)
    names = ("needle.json", "needle.samples.jsonl", "needle.responses.jsonl", "needle.png")
    kept = {name: (out / name).read_bytes() for name in names}
    with pytest.MonkeyPatch.context() as patch:

        def killed(*_: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(harness, "record", killed)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            needle(chat_model, essays, out, "--overwrite", "--debug")
    assert {name: (out / name).read_bytes() for name in names} == kept
    after = needle(chat_model, essays, out, "--overwrite")
    assert after["created"] >= before["created"] and after["requests"]["asked"] == before["requests"]["asked"]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)


def test_a_folder_that_cannot_be_written_is_refused_before_the_model_is_loaded(
    chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from meap_megatron.evaluation import run

    monkeypatch.setattr(run, "open_session", lambda request: pytest.fail("the model was loaded"))
    (tmp_path / "file").write_text("")
    assert main(["evaluate", "needle", "--model", str(chat_model), "--out", str(tmp_path / "file" / "x")]) == 2
    assert "name a folder with --out DIR" in capsys.readouterr().err
