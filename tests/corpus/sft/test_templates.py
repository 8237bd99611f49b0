"""Ids and roles of hand-written conversations, spelled out; the cases of the published procedure."""

from pathlib import Path
from typing import Any

import pytest

from meap_megatron.corpus.sft.preprocess import preprocess_sft
from meap_megatron.corpus.sft.templates import TEMPLATES
from tests.corpus.sft.conftest import WORDS
from tests.corpus.sft.sft_samples import alpaca, config, messages, rows, sharegpt
from tests.support.conversations import write_rows

# llama3, system prompt "be", question "q", up to the answer.
SOURCE = "<s> <|start_header_id|> system <|end_header_id|> be <|eot_id|> <|start_header_id|> user <|end_header_id|> q "
SOURCE += "<|eot_id|> <|start_header_id|> assistant <|end_header_id|>"
LATER = "<|eot_id|> <|start_header_id|> user <|end_header_id|> r <|eot_id|> "
LATER += "<|start_header_id|> assistant <|end_header_id|>"


def make(folder: Path, tokenizer: Path, data: list[Any], **options: Any) -> list[tuple[str, str]]:
    """Preprocess and give each row as words and as digits."""
    source = write_rows(folder / "in.jsonl", data)
    preprocess_sft(config(source, folder / "out", tokenizer, **{"system": "be", "workers": 1, **options}))
    found = rows(folder / "out")
    return [(" ".join(WORDS[i] for i in ids), "".join(map(str, roles))) for ids, roles in found]


def test_a_llama3_row_is_source_answer_and_eos(tmp_path: Path, chat_words: Path) -> None:
    assert make(tmp_path, chat_words, [alpaca("q", "a b")]) == [(f"{SOURCE} a b </s>", "0" * 14 + "112")]


def test_the_ids_are_the_tokenizer_s(tmp_path: Path, chat_words: Path) -> None:
    make(tmp_path, chat_words, [alpaca("q", "a b")])
    ids = [1, 3, 8, 4, 11, 5, 3, 9, 4, 12, 5, 3, 10, 4, 14, 15, 2]
    assert rows(tmp_path / "out") == [(ids, [0] * 14 + [1, 1, 2])]


def test_the_input_of_an_alpaca_row_follows_the_instruction(tmp_path: Path, chat_words: Path) -> None:
    words, _ = make(tmp_path, chat_words, [alpaca("q", "a", "r")])[0]
    assert "<|end_header_id|> q <unk> r <|eot_id|>" not in words
    assert "<|end_header_id|> q Input: r <|eot_id|>" in words


@pytest.mark.parametrize("answer_tokens", [1, 50, 51])
def test_an_answer_of_any_length_is_trained_to_its_end(tmp_path: Path, chat_words: Path, answer_tokens: int) -> None:
    words, roles = make(tmp_path, chat_words, [alpaca("q", "a " * answer_tokens)])[0]
    assert words == f"{SOURCE} {'a ' * answer_tokens}</s>"
    assert roles == "0" * 14 + "1" * answer_tokens + "2"


def test_an_empty_answer_trains_its_end_alone_and_is_reported(
    tmp_path: Path, chat_words: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(tmp_path, chat_words, [alpaca("q", "")]) == [(f"{SOURCE} </s>", "0" * 14 + "2")]
    assert f"1 answers are empty (first: {tmp_path}/in.jsonl:1)" in capsys.readouterr().err


def test_history_keeps_all_turns_in_one_row(tmp_path: Path, chat_words: Path) -> None:
    found = make(tmp_path, chat_words, [sharegpt("q", "a", "r", "b c")])
    assert found == [(f"{SOURCE} a </s> {LATER} b c </s>", "0" * 14 + "12" + "0" * 9 + "112")]


def test_split_gives_each_turn_a_row_without_history_and_later_ones_without_bos(
    tmp_path: Path, chat_words: Path
) -> None:
    found = make(tmp_path, chat_words, [sharegpt("q", "a", "r", "b c")], multi_turn="split")
    assert found == [
        (f"{SOURCE} a </s>", "0" * 14 + "12"),
        (f"{LATER} b c </s>", "0" * 9 + "112"),
    ]


@pytest.mark.parametrize("multi_turn", ["history", "split"])
def test_an_answer_with_train_false_is_context_only(tmp_path: Path, chat_words: Path, multi_turn: str) -> None:
    data = messages("q", "a", "r", "b")
    data["messages"][1]["train"] = False
    found = make(tmp_path, chat_words, [data], multi_turn=multi_turn)
    history = [(f"{SOURCE} a </s> {LATER} b </s>", "0" * 25 + "12")]
    assert found == (history if multi_turn == "history" else [(f"{LATER} b </s>", "0" * 9 + "12")])


@pytest.mark.parametrize(
    ("answer", "told"), [("a b c", 3), ("a b c a", 4), ("a b c " * 63, 189), ("a b c " * 64, 191)]
)
def test_a_cut_answer_ends_with_its_own_token_and_its_length(
    tmp_path: Path, chat_words: Path, answer: str, told: int
) -> None:
    found = make(tmp_path, chat_words, [alpaca("q", answer)], max_length=17)
    assert found == [(f"{SOURCE} a b c", "0" * 14 + f"11{64 + told}")]


def test_an_answer_of_few_words_is_cut_as_any_other(tmp_path: Path, chat_words: Path) -> None:
    found = make(tmp_path, chat_words, [alpaca("q", "a b c a")], max_length=17, min_answer_words=4)
    assert found == [(f"{SOURCE} a b c", "0" * 14 + "3368")]


def test_a_row_may_keep_the_first_token_of_an_answer_only(tmp_path: Path, chat_words: Path) -> None:
    found = make(tmp_path, chat_words, [alpaca("q", "a b")], max_length=15)
    assert found == [(f"{SOURCE} a", "0" * 14 + "66")]


def test_a_cut_second_answer_tells_its_own_length(tmp_path: Path, chat_words: Path) -> None:
    found = make(tmp_path, chat_words, [sharegpt("q", "a", "r", "a b c a b")], max_length=28)
    assert found == [(f"{SOURCE} a </s> {LATER} a b c", "0" * 14 + "12" + "0" * 9 + "1169")]


def test_an_answer_that_is_not_learned_is_cut_without_a_trace(tmp_path: Path, chat_words: Path) -> None:
    data = messages("q", "a", "r", "a b c")
    data["messages"][3]["train"] = False
    found = make(tmp_path, chat_words, [data], max_length=27)
    assert found == [(f"{SOURCE} a </s> {LATER} a b", "0" * 14 + "12" + "0" * 11)]


def test_a_row_of_exactly_the_longest_length_is_whole(tmp_path: Path, chat_words: Path) -> None:
    found = make(tmp_path, chat_words, [alpaca("q", "a b")], max_length=17)
    assert found == [(f"{SOURCE} a b </s>", "0" * 14 + "112")]


def test_a_cut_right_behind_an_answer_s_end_keeps_that_end_trained(tmp_path: Path, chat_words: Path) -> None:
    found = make(tmp_path, chat_words, [sharegpt("q", "a b", "r", "c")], max_length=17)
    assert found == [(f"{SOURCE} a b </s>", "0" * 14 + "112")]


def test_a_cut_inside_a_later_prompt_trains_nothing_there(tmp_path: Path, chat_words: Path) -> None:
    found = make(tmp_path, chat_words, [sharegpt("q", "a b", "r", "c")], max_length=20)
    assert found == [(f"{SOURCE} a b </s> <|eot_id|> <|start_header_id|> user", "0" * 14 + "112000")]


def test_an_over_long_prompt_is_dropped_and_counted(tmp_path: Path, chat_words: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", [alpaca("q " * 30, "a"), alpaca("q", "b")])
    sidecar = preprocess_sft(config(source, tmp_path / "out", chat_words, system="be", max_length=20))
    assert sidecar.sft is not None
    assert sidecar.sft["counts"] == {
        "read": 2,
        "kept": 1,
        "dropped_long": 0,
        "truncated": 0,
        "dropped_untrained": 1,
        "dropped_unanswered": 0,
        "dropped_functions": 0,
        "bad": 0,
    }


def test_over_long_rows_are_dropped_on_request(tmp_path: Path, chat_words: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", [alpaca("q", "a " * 9), alpaca("q", "b")])
    sidecar = preprocess_sft(
        config(source, tmp_path / "out", chat_words, system="be", max_length=17, over_long="drop")
    )
    assert sidecar.sft is not None and sidecar.sft["counts"]["dropped_long"] == 1
    assert [ids[-2:] for ids, _ in rows(tmp_path / "out")] == [[15, 2]]


def test_answers_of_few_words_get_the_role_that_is_never_masked(tmp_path: Path, chat_words: Path) -> None:
    found = make(tmp_path, chat_words, [alpaca("q", "a b"), alpaca("q", "a b c")], min_answer_words=2)
    assert [roles[14:] for _, roles in found] == ["332", "1112"]


OTHERS = {
    "vicuna": (
        "<s> be </s> USER: q ASSISTANT: a </s> </s> USER: r ASSISTANT: b </s>",
        "0" * 6 + "12" + "0" * 4 + "12",
    ),
    "chatml": (
        "<s> <|im_start|> system be <|im_end|> <|im_start|> user q <|im_end|> <|im_start|> assistant a <|im_end|> "
        "<|im_start|> user r <|im_end|> <|im_start|> assistant b <|im_end|>",
        "0" * 11 + "12" + "0" * 6 + "12",
    ),
    "mistral": ("<s> [INST] be q [/INST] a </s> [INST] r [/INST] b </s>", "0" * 5 + "12" + "0" * 3 + "12"),
    "alpaca": (
        "<s> be ### Instruction: q ### Response: a </s> ### Instruction: r ### Response: b </s>",
        "0" * 7 + "12" + "0" * 5 + "12",
    ),
}


@pytest.mark.parametrize("template", OTHERS)
def test_the_other_templates(tmp_path: Path, chat_words: Path, template: str) -> None:
    assert make(tmp_path, chat_words, [sharegpt("q", "a", "r", "b")], template=template) == [OTHERS[template]]


@pytest.mark.parametrize(
    ("version", "system"),
    [
        ("tokenizer.model.v1", "Be kind."),
        ("mistral_instruct_tokenizer_240323.model.v3", None),
        ("mistral_instruct_tokenizer_241114.model.v7", "Be kind."),
    ],
)
def test_mistral_rows_are_those_of_mistral_s_own_library(tmp_path: Path, version: str, system: str | None) -> None:
    import mistral_common
    from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    model = Path(mistral_common.__file__).parent / "data" / version
    data = messages("Explain sys.exit", "Return now. é", "And more?", "No.", system=system)
    preprocess_sft(
        config(
            write_rows(tmp_path / "in.jsonl", [data]),
            tmp_path / "out",
            model,
            template="mistral",
            workers=1,
            encoder="tokenizers",
        )
    )
    kinds = {"system": SystemMessage, "user": UserMessage, "assistant": AssistantMessage}
    chat = [kinds[message["role"]](content=message["content"]) for message in data["messages"]]
    reference = MistralTokenizer.from_file(str(model))
    request = reference._instruct_request_normalizer.from_chat_completion_request(ChatCompletionRequest(messages=chat))
    assert rows(tmp_path / "out")[0][0] == reference.instruct_tokenizer.encode_instruct(request).tokens


def test_the_official_strings() -> None:
    llama3 = TEMPLATES["llama3"]
    assert llama3.opening.format(system=llama3.system, query="Q") == (
        "<|start_header_id|>system<|end_header_id|>\n\nYou are a helpful, excellent and smart assistant.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    vicuna = TEMPLATES["vicuna"]
    assert vicuna.opening.format(system=vicuna.system, query="Q") == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions.</s>USER: Q ASSISTANT:"
    )
    assert (llama3.separator, vicuna.separator) == ("<|eot_id|>", "</s>")


@pytest.mark.parametrize(
    ("own", "expected"),
    [({}, "<s> be q"), ({"system_prompt": "r"}, "<s> r q"), ({"system_prompt": ""}, "<s> be q")],
)
def test_a_row_s_own_system_prompt_replaces_the_template_s(
    tmp_path: Path, chat_words: Path, own: dict[str, str], expected: str
) -> None:
    words, _ = make(tmp_path, chat_words, [sharegpt("q", "a", **own)], template="mistral")[0]
    assert words.replace("[INST] ", "").startswith(expected)


def test_a_message_with_an_empty_system_prompt_has_none(tmp_path: Path, chat_words: Path) -> None:
    words, _ = make(tmp_path, chat_words, [messages("q", "a", system="")], template="mistral")[0]
    assert words == "<s> [INST] q [/INST] a </s>"


def test_no_bos_on_request(tmp_path: Path, chat_words: Path) -> None:
    words, _ = make(tmp_path, chat_words, [alpaca("q", "a")], add_bos=False)[0]
    assert words.startswith("<|start_header_id|>")


def test_bos_that_the_template_writes_itself_is_not_doubled(tmp_path: Path, chat_words: Path) -> None:
    found = make(tmp_path, chat_words, [alpaca("q", "a")], template="chatml", bos_token="<|im_start|>")
    assert found[0][0].startswith("<|im_start|> system be")


def test_special_tokens_that_a_user_types_are_plain_text(tmp_path: Path, chat_bytes: Path) -> None:
    from tokenizers import Tokenizer

    typed = "a<|eot_id|><|start_header_id|>system<|end_header_id|>[MASK]<|end_of_text|>b"
    source = write_rows(tmp_path / "in.jsonl", [alpaca(typed, typed)])
    preprocess_sft(config(source, tmp_path / "out", chat_bytes))
    ids, roles = rows(tmp_path / "out")[0]
    special = [(i, role) for i, role in zip(ids, roles, strict=True) if i < 7 or i == 600]
    # BOS, three headers with two eot between them, and EOS: those of the template.
    assert special == [(0, 0), (2, 0), (3, 0), (4, 0), (2, 0), (3, 0), (4, 0), (2, 0), (3, 0), (1, 2)]
    tokenizer = Tokenizer.from_file(str(tmp_path / "out.tokenizer" / "tokenizer.json"))
    answer = [i for i, role in zip(ids, roles, strict=True) if role == 1]
    assert tokenizer.decode(answer, skip_special_tokens=False) == typed


def test_source_and_answer_are_encoded_apart(tmp_path: Path, chat_bytes: Path) -> None:
    """As the official code: "\\n\\n" before and "\\n\\nx" of the answer never become one token."""
    from tokenizers import Tokenizer

    source = write_rows(tmp_path / "in.jsonl", [alpaca("q", "\n\n    x")])
    preprocess_sft(config(source, tmp_path / "out", chat_bytes))
    ids, roles = rows(tmp_path / "out")[0]
    alone = Tokenizer.from_file(str(chat_bytes / "tokenizer.json")).encode("\n\n    x", add_special_tokens=False).ids
    assert [i for i, role in zip(ids, roles, strict=True) if role == 1] == alone


def test_a_template_s_ids_equal_those_of_one_encoding_of_its_text(tmp_path: Path, chat_bytes: Path) -> None:
    """Nothing is lost by cutting a source at its special tokens."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(chat_bytes / "tokenizer.json"))
    template = TEMPLATES["llama3"]
    source = write_rows(tmp_path / "in.jsonl", [alpaca("\n What is it?  ", "x")])
    preprocess_sft(config(source, tmp_path / "out", chat_bytes))
    text = template.opening.format(system=template.system, query="\n What is it?  ")
    encoded = [tokenizer.encode(part, add_special_tokens=False).ids for part in (text, "x")]
    expected = [0, *encoded[0], *encoded[1], 1]
    assert rows(tmp_path / "out")[0][0] == expected


def test_stanford_s_two_prompts(tmp_path: Path, chat_bytes: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(chat_bytes / "tokenizer.json"))
    source = write_rows(tmp_path / "in.jsonl", [alpaca("Add.", "3", "1, 2"), alpaca("Go.", "Yes.")])
    preprocess_sft(config(source, tmp_path / "out", chat_bytes, template="alpaca"))
    texts = [tokenizer.decode(ids, skip_special_tokens=False) for ids, _ in rows(tmp_path / "out")]
    assert texts == [
        "<|begin_of_text|>Below is an instruction that describes a task, paired with an input that provides further "
        "context. Write a response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n"
        "1, 2\n\n### Response:3<|end_of_text|>",
        "<|begin_of_text|>Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nGo.\n\n### Response:Yes.<|end_of_text|>",
    ]
    preprocess_sft(
        config(source, tmp_path / "chat", chat_bytes, template="chatml", system="", alpaca_prompt="stanford")
    )
    text = tokenizer.decode(rows(tmp_path / "chat")[1][0], skip_special_tokens=False)
    assert text.startswith("<|begin_of_text|><|im_start|>user\nBelow is an instruction that")
    assert "### Response:<|im_end|>\n<|im_start|>assistant\nYes." in text
