"""Text comes out of runs and folders alike: as it is generated, repeatably, within limits, and never [MASK]."""

import io
import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from meap_megatron.cli.main import main
from meap_megatron.errors import RunError, UserError
from meap_megatron.generation.answer import Sampling, TextStream, answer, chat_ids, prompt_ids
from meap_megatron.generation.conversation import ChatSession
from meap_megatron.generation.model import OpenModel, Source, open_model
from meap_megatron.generation.prompts import read_prompts
from tests.generation.conftest import MASK_ID, TEMPLATE
from tests.support.conversations import write_chat_tokenizer
from tests.support.hf_models import write_model


def said(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    assert main([*map(str, words), "--device", "cpu"]) == 0
    return capsys.readouterr().out


def test_a_checkpoint_says_what_its_export_says(chat_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("Say something.", "--max-tokens", "24")
    exported = said(capsys, "generate", chat_model / "out", *words)
    assert said(capsys, "generate", chat_model / "mc", *words) == exported
    assert said(capsys, "generate", chat_model / "mc" / "release", *words) == exported
    assert len(exported.strip()) > 10
    continued = said(capsys, "generate", chat_model / "mc", *words, "--no-apply-chat-template")
    assert continued != exported


def test_greedy_text_is_that_of_transformers(opened: OpenModel) -> None:
    ids = chat_ids(opened, [{"role": "user", "content": "Say something."}])
    [found] = answer(opened, [ids], Sampling(max_tokens=24))
    logits = opened.model(torch.tensor([[*ids, *found.ids]])).logits[0, len(ids) - 1 : -1]
    logits[:, list(opened.never)] = -torch.inf
    assert found.ids == tuple(logits.argmax(1).tolist())
    assert found.text == opened.tokenizer.decode(found.ids, skip_special_tokens=True)


@pytest.mark.parametrize("sampling", [Sampling(max_tokens=8), Sampling(max_tokens=8, temperature=2.0)], ids=str)
def test_mask_is_never_generated(chat_model: Path, tmp_path: Path, sampling: Sampling) -> None:
    folder = shutil.copytree(chat_model / "out", tmp_path / "model")
    (folder / "generation_config.json").unlink()  # without what the export says against it
    for name in ("tokenizer_config.json", "special_tokens_map.json", "meap_eval.json"):
        (folder / name).unlink(missing_ok=True)  # nor anything that names [MASK] but its text in the vocabulary
    opened = open_model(Source(model=folder, device="cpu", chat=False))
    assert MASK_ID in opened.never
    head = opened.model.lm_head
    head.register_forward_hook(lambda module, inputs, out: out.index_fill_(-1, torch.tensor([MASK_ID]), 1e4))
    options = {"output_scores": True, "return_dict_in_generate": True, "max_new_tokens": 2, "do_sample": False}
    scores = opened.model.generate(torch.tensor([[2, 3]]), **options).scores
    assert all(score[0, MASK_ID] == -torch.inf for score in scores)
    for found in answer(opened, [[5, 6], [7, 8, 9]], sampling):
        assert found.ids and MASK_ID not in found.ids
    opened.model.generation_config.suppress_tokens = None
    assert set(answer(opened, [[5, 6]], sampling)[0].ids) == {MASK_ID}  # as it would be


def test_rows_without_a_token_are_never_generated(chat_model: Path, tmp_path: Path) -> None:
    words = ["convert", "export", str(chat_model / "mc"), str(tmp_path / "rows"), "--rows", "model"]
    assert main([*words, "--skip-verification"]) == 0
    (tmp_path / "rows" / "generation_config.json").unlink()  # without what the export says against them
    assert open_model(Source(model=tmp_path / "rows", device="cpu")).never == tuple(range(1024, 1088))


def test_what_is_shown_adds_up_to_the_answer(opened: OpenModel) -> None:
    shown: list[str] = []
    ids = prompt_ids(opened, "def main():")
    [found] = answer(opened, [ids], Sampling(max_tokens=40, temperature=1.5, seed=4), on_text=shown.append)
    assert "".join(shown) == found.text and sum(map(bool, shown)) > 20


def test_characters_of_several_tokens_come_whole_and_cut_ones_are_marked(opened: OpenModel) -> None:
    ids = opened.tokenizer("大 ü", add_special_tokens=False).input_ids
    stream = TextStream(opened.tokenizer, [0])
    pieces = [stream.put(number) for number in ids]
    assert "".join(pieces) == "大 ü" and "\ufffd" not in "".join(pieces) and len(ids) > 4
    cut = TextStream(opened.tokenizer, [0])
    assert cut.put(ids[0]) == "" and cut.end() == "\ufffd"


def test_draws_repeat_with_a_seed_and_follow_temperature_and_top_p(opened: OpenModel) -> None:
    ids = prompt_ids(opened, "def main():")

    def draw(**options: Any) -> tuple[int, ...]:
        return answer(opened, [ids], Sampling(max_tokens=24, **options))[0].ids

    greedy = draw()
    assert draw(seed=5) == greedy
    assert draw(temperature=1.0, seed=1) == draw(temperature=1.0, seed=1) != draw(temperature=1.0, seed=2)
    assert draw(temperature=5.0, top_p=1e-6, seed=1) == greedy
    assert draw(temperature=1e-4, seed=1) == greedy


def test_prompts_of_several_lengths_are_answered_together_as_alone(opened: OpenModel) -> None:
    prompts = [prompt_ids(opened, text) for text in ("a", "def main(argument):\n    return", "x" * 400)]
    sampling = Sampling(max_tokens=12)
    together = answer(opened, prompts, sampling)
    assert together == [answer(opened, [ids], sampling)[0] for ids in prompts]


def test_an_answer_ends_with_the_model_and_at_its_limit(opened: OpenModel) -> None:
    hook = opened.model.lm_head.register_forward_hook(
        lambda module, inputs, out: out.index_fill_(-1, torch.tensor([6]), 1e4)
    )
    try:
        [found] = answer(opened, [[5, 6]], Sampling())
    finally:
        hook.remove()
    assert (found.ids, found.text, found.ended) == ((6,), "", True)
    assert opened.limit == 512
    near, far = answer(opened, [[9] * 510, [9] * 500], Sampling(max_tokens=20))
    assert (len(near.ids), len(far.ids)) == (2, 12) and not near.ended
    with pytest.raises(UserError, match="has 512 tokens and the model takes 512"):
        answer(opened, [[9] * 512], Sampling())


class Terminal(io.StringIO):
    def __init__(self, *lines: str) -> None:
        super().__init__("".join(line + "\n" for line in lines))


def test_a_conversation_keeps_its_history_and_its_cache(opened: OpenModel, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    forward = opened.model.model.forward

    def count(*args: Any, **kwargs: Any) -> Any:
        read.append(kwargs["input_ids"].shape[1])
        return forward(*args, **kwargs)

    monkeypatch.setattr(opened.model.model, "forward", count)
    conversation = ChatSession(opened, Sampling(max_tokens=10), system="Be brief.")
    questions = ["First of all, " * 8, "And then?", "And then?"]
    for question in questions:
        conversation.ask(question, lambda new: None)
        before = conversation.messages[:-1]
        ids = chat_ids(opened, before)
        alone = answer(opened, [ids], Sampling(max_tokens=10))[0].text
        assert conversation.messages[-1] == {"role": "assistant", "content": alone}
    assert [m["role"] for m in conversation.messages] == ["system", *("user", "assistant") * 3]
    # Each question was read twice: here without a cache, and in the conversation only as far as it was new.
    first, *later = [count for count in read if count > 1][::2]
    assert first > 40 and all(count < 40 for count in later)
    conversation.clear()
    assert [m["role"] for m in conversation.messages] == ["system"]
    again = conversation.ask(questions[0], lambda new: None)
    assert (
        again is not None
        and again.text
        == answer(opened, [chat_ids(opened, conversation.messages[:-1])], Sampling(max_tokens=10))[0].text
    )


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl+C interrupts, even where the tests run in the background, in which shells ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_an_answer_and_not_the_conversation(opened: OpenModel, ctrl_c: None) -> None:
    shown: list[str] = []

    def interrupt(new: str) -> None:
        shown.append(new)
        if len(shown) == 5:
            signal.raise_signal(signal.SIGINT)

    conversation = ChatSession(opened, Sampling(max_tokens=30))
    assert conversation.ask("Talk.", interrupt) is None
    assert conversation.messages[-1] == {"role": "assistant", "content": "".join(shown)}
    second = conversation.ask("Again.", lambda new: None)
    assert second is not None
    alone = answer(opened, [chat_ids(opened, conversation.messages[:-1])], Sampling(max_tokens=30))[0]
    assert second == alone


def test_chat_takes_turns_until_it_is_told_to_quit(
    chat_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = ("One.", '"""Two', 'lines."""', "", "/clear", "/help", "One.", "/quit", "Never.")
    monkeypatch.setattr("sys.stdin", Terminal(*typed))
    assert main(["chat", str(chat_model / "mc"), "--max-tokens", "12", "--device", "cpu"]) == 0
    found = capsys.readouterr()
    assert found.err.count("(stopped after 12 tokens") == 3
    assert found.err.count("/clear forgets the conversation") == 2, (
        "at the start, and for a command that it does not know"
    )
    whole = found.out
    monkeypatch.setattr("sys.stdin", Terminal("One."))  # ends as a file does
    assert main(["chat", str(chat_model / "mc"), "--max-tokens", "12", "--device", "cpu"]) == 0
    alone = capsys.readouterr().out
    assert whole.startswith(alone) and whole.endswith(alone) and len(whole) > 2 * len(alone)


def test_prompts_of_a_file_are_answered_in_order_with_their_own_keys(
    chat_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [
        {"id": 7, "prompt": "Say something."},
        {"messages": [{"role": "user", "content": "Say something."}]},
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What?"}]},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, records)))
    words = ("generate", chat_model / "out", "--max-tokens", "6")
    lines = said(capsys, *words, "--prompts", tmp_path / "p.jsonl", "--batch-size", "2").splitlines()
    found = list(map(json.loads, lines))
    assert [{key: line[key] for key in record} for record, line in zip(records, found, strict=True)] == records
    assert found[0]["answer"] == found[1]["answer"] != found[2]["answer"]
    assert found[0]["tokens"] == 6 and found[0]["finish"] == "length"
    monkeypatch.setattr("sys.stdin", Terminal("Say something.", "", "What?"))
    texts = [json.loads(line) for line in said(capsys, *words, "--prompts", "-").splitlines()]
    assert [line["prompt"] for line in texts] == ["Say something.", "What?"]
    assert texts[0]["answer"] == found[0]["answer"]
    monkeypatch.setattr("sys.stdin", io.StringIO("Say something."))
    assert said(capsys, *words).rstrip("\n") == found[0]["answer"].rstrip("\n")


@pytest.mark.parametrize("family", ["qwen3", "smollm3"])
def test_an_imported_model_generates_by_the_logits_of_its_source(family: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    source = write_model(tmp_path / "hf", family, vocab_size=1024)
    write_chat_tokenizer(source, chat_template=TEMPLATE)
    assert main(["convert", "import", str(source), str(tmp_path / "mc"), "--skip-verification"]) == 0
    ours = open_model(Source(model=tmp_path / "mc", device="cpu"))
    ids = chat_ids(ours, [{"role": "user", "content": "Say something."}])
    [found] = answer(ours, [ids], Sampling(max_tokens=16))
    theirs = AutoModelForCausalLM.from_pretrained(source)
    with torch.no_grad():
        both = [
            model(torch.tensor([[*ids, *found.ids]])).logits[0, len(ids) - 1 : -1] for model in (ours.model, theirs)
        ]
    torch.testing.assert_close(both[0][:, :1024], both[1], rtol=1e-5, atol=1e-5)
    assert len(found.ids) > 4 and found.ids == tuple(both[1].argmax(1).tolist())


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", r"f, line 2: not JSON"),
        ("[]", r"f, line 2: must be an object"),
        ('{"text": "x"}', r"f, line 2: must be an object with either 'prompt' or 'messages'"),
        ('{"prompt": 3}', r"f, line 2: 'prompt' must be a text"),
        ('{"messages": ["x"]}', r"f, line 2: 'messages' must be a list of objects"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', r"f, line 2: the last message is the assistant's"),
    ],
)
def test_a_wrong_line_is_named(line: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(read_prompts(['{"prompt": "x"}', line], name="f"))


@pytest.mark.parametrize(
    "words, message",
    [
        (["generate", "{hf}", "x", "--top-p", "0.5"], "no effect without --temperature"),
        (["generate", "{hf}", "x", "--temperature", "-1"], "--temperature -1.0 must be 0"),
        (["generate", "{hf}", "x", "--max-tokens", "0"], "--max-tokens 0 must be at least 1"),
        (["generate", "{hf}", "x", "--prompts", "f"], "are both given"),
        (["generate", "{hf}", "--prompts", "nowhere"], "nowhere cannot be read"),
        (["generate", "{hf}", "x", "--data", "d"], "are for checkpoints of a run"),
        (["generate", "{hf}", "x", "--device", "nothing"], "--device nothing cannot be used here"),
        (["generate", "{root}", "x"], "neither a Hugging Face model nor a checkpoint"),
        (["generate", "{root}/nowhere", "x"], "is not a folder"),
        (
            ["generate", "{hf}", "x", "--system", "s", "--no-apply-chat-template"],
            "a conversation needs a chat template",
        ),
    ],
)
def test_what_cannot_be_done_is_said(
    chat_model: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main([word.format(root=chat_model, hf=chat_model / "out") for word in words]) == 2
    assert message in capsys.readouterr().err


def test_what_the_template_refuses_is_said_and_changes_nothing(opened: OpenModel) -> None:
    with pytest.raises(UserError, match="the chat template refuses the conversation: nobody may speak"):
        chat_ids(opened, [{"role": "nobody", "content": "x"}])
    conversation = ChatSession(opened, Sampling(max_tokens=4))
    conversation.ask("One.", lambda new: None)
    before = list(conversation.messages)
    with pytest.raises(UserError, match="the model takes 512"):
        conversation.ask("word " * 600, lambda new: None)
    assert conversation.messages == before


def test_a_base_model_does_not_chat(chat_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(chat_model / "hf", tmp_path / "base")
    (folder / "generation_config.json").write_text('{"eos_token_id": 1}')  # does not stop where the template ends
    assert main(["chat", str(folder), "--device", "cpu"]) == 2
    found = capsys.readouterr().err
    assert "was not trained on conversations" in found and "--apply-chat-template" in found


def test_a_full_gpu_is_named_with_what_to_do(opened: OpenModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nMore.")

    monkeypatch.setattr(opened.model, "generate", full)
    with pytest.raises(RunError, match=r"memory is full \(CUDA out of memory.*20.00 GiB.\); use --dtype bfloat16"):
        answer(opened, [[5]], Sampling())
