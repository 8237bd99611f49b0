"""Ids and roles of hand-written conversations, spelled out; the cases of the published procedure, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from meap_megatron.corpus.sft.conversation import Conversation, Message
from meap_megatron.corpus.sft.encode import PieceEncoder
from meap_megatron.corpus.sft.preprocess import preprocess_sft
from meap_megatron.corpus.sft.render import RenderOptions
from meap_megatron.corpus.sft.template_fit import fit_template
from meap_megatron.corpus.sft.templates import TEMPLATES
from meap_megatron.tokenizer.load import load_tokenizer
from tests.corpus.sft.sft_samples import LATER, SOURCE, WORDS, alpaca, config, make, messages, rows, sharegpt
from tests.support.conversations import write_rows

HEAD, TAIL = "0" * 14, "0" * 9  # roles of SOURCE and LATER
Q, QR, QR_LONG = alpaca("q", "a b"), sharegpt("q", "a", "r", "b c"), sharegpt("q", "a b", "r", "c")
SPLIT, FEW = {"multi_turn": "split"}, {"min_answer_words": 2}


def unlearned(*texts: str, number: int) -> dict[str, Any]:
    """Messages of which one answer is not trained."""
    data = messages(*texts)
    data["messages"][number]["train"] = False
    return data


def cut(length: int, **more: Any) -> dict[str, Any]:
    return {"max_length": length, **more}


ROWS: dict[str, tuple[dict[str, Any], dict[str, Any], list[tuple[str, str]]]] = {
    "source, answer and EOS": (Q, {}, [("S a b </s>", "S112")]),
    "50 tokens": (alpaca("q", "a " * 50), {}, [(f"S {'a ' * 50}</s>", "S" + "1" * 50 + "2")]),
    "51 tokens": (alpaca("q", "a " * 51), {}, [(f"S {'a ' * 51}</s>", "S" + "1" * 51 + "2")]),
    "history is one row": (QR, {}, [("S a </s> L b c </s>", "S12L112")]),
    "a row per turn, later ones without BOS": (QR, SPLIT, [("S a </s>", "S12"), ("L b c </s>", "L112")]),
    "context only": (unlearned("q", "a", "r", "b", number=1), {}, [("S a </s> L b </s>", "S00L12")]),
    "context has no row of its own": (unlearned("q", "a", "r", "b", number=1), SPLIT, [("L b </s>", "L12")]),
    "a cut at the end token tells the length": (alpaca("q", "a b c"), cut(17), [("S a b c", "S1167")]),
    "a cut answer tells its length": (alpaca("q", "a b c a"), cut(17), [("S a b c", "S1168")]),
    "189 tokens are told": (alpaca("q", "a b c " * 63), cut(17), [("S a b c", f"S11{64 + 189}")]),
    "at most 191 are told": (alpaca("q", "a b c " * 64), cut(17), [("S a b c", f"S11{64 + 191}")]),
    "few words are cut as any": (alpaca("q", "a b c a"), cut(17, min_answer_words=4), [("S a b c", "S3368")]),
    "the first token of an answer": (Q, cut(15), [("S a", "S66")]),
    "a cut second answer": (sharegpt("q", "a", "r", "a b c a b"), cut(28), [("S a </s> L a b c", "S12L1169")]),
    "a cut context": (unlearned("q", "a", "r", "a b c", number=3), cut(27), [("S a </s> L a b", "S12L00")]),
    "exactly the longest length": (Q, cut(17), [("S a b </s>", "S112")]),
    "a cut right behind an end token keeps it trained": (QR_LONG, cut(17), [("S a b </s>", "S112")]),
    "a cut in a later prompt": (QR_LONG, cut(20), [("S a b </s> <|eot_id|> <|start_header_id|> user", "S112000")]),
    "few words are never masked": (Q, FEW, [("S a b </s>", "S332")]),
    "more words are masked": (alpaca("q", "a b c"), FEW, [("S a b c </s>", "S1112")]),
}
"""Data, options, and the words and roles of each row; S is the source of the first turn, L that of a later one."""


@pytest.mark.parametrize("case", ROWS)
def test_a_row_has_these_ids_and_roles(tmp_path: Path, chat_words: Path, case: str) -> None:
    data, options, expected = ROWS[case]
    words, roles = str.maketrans({"S": SOURCE, "L": LATER}), str.maketrans({"S": HEAD, "L": TAIL})
    found = make(tmp_path, chat_words, [data], **options)
    assert found == [(text.translate(words), digits.translate(roles)) for text, digits in expected]
    if case == "source, answer and EOS":
        ids = [1, 3, 8, 4, 11, 5, 3, 9, 4, 12, 5, 3, 10, 4, 14, 15, 2]
        assert rows(tmp_path / "out") == [(ids, [0] * 14 + [1, 1, 2])]


def test_the_input_of_an_alpaca_row_follows_the_instruction(tmp_path: Path, chat_words: Path) -> None:
    words, _ = make(tmp_path, chat_words, [alpaca("q", "a", "r")])[0]
    assert "<|end_header_id|> q Input: r <|eot_id|>" in words


def test_an_empty_answer_trains_its_end_alone_and_is_reported(
    tmp_path: Path, chat_words: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(tmp_path, chat_words, [alpaca("q", "")]) == [(f"{SOURCE} </s>", HEAD + "2")]
    assert f"1 empty answer (first: {tmp_path}/in.jsonl:1)" in capsys.readouterr().err


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


def message(role: str, content: Any, **more: Any) -> Message:
    return Message(role=role, content=content, fields=more)


def words_of(folder: Path, template: str, *talk: Message, tools: Any = None, **options: Any) -> tuple[str, str] | str:
    """The row of a conversation as words and as digits, or why there is none."""
    tokenizer = load_tokenizer(folder)
    fitted = fit_template(template, tokenizer, source=str(folder))
    renderer, definition = fitted.load(
        tokenizer.definition, bos_id=1, eos_id=2, options=RenderOptions(system="", **options)
    )
    found = renderer.render(Conversation(messages=talk, tools=tools))
    if isinstance(found, str):
        return found
    ((ids, roles),), _ = PieceEncoder("tokenizers", definition).encode(found)
    return " ".join(WORDS[index] for index in ids), "".join(map(str, roles))


USER = "<|im_start|> user {} <|im_end|>"
BOT = "<|im_start|> assistant"


@pytest.mark.parametrize(
    ("talk", "words", "roles"),
    [
        ("aq", f"<s> {BOT} a <|im_end|> {USER.format('q')}", "000" + "12" + "0000"),
        ("qra", f"<s> {USER.format('q')} {USER.format('r')} {BOT} a <|im_end|>", "0" * 11 + "12"),
        ("qab", f"<s> {USER.format('q')} {BOT} a <|im_end|> {BOT} b <|im_end|>", "0" * 7 + "12" + "00" + "12"),
        (
            "sqar",
            f"<s> <|im_start|> system be <|im_end|> {USER.format('q')} {BOT} a <|im_end|> {USER.format('r')}",
            None,
        ),
    ],
)
def test_messages_stand_alone_in_any_order_where_the_template_opens_each(
    chat_words: Path, talk: str, words: str, roles: str | None
) -> None:
    kinds = {"s": "system", "q": "user", "r": "user", "a": "assistant", "b": "assistant"}
    made = [message(kinds[letter], "be" if letter == "s" else letter) for letter in talk]
    found = words_of(chat_words, "chatml", *made)
    assert found[0] == words
    assert roles is None or found[1] == roles
    made[0] = message("developer", "be") if talk[0] == "s" else made[0]
    assert words_of(chat_words, "chatml", *made)[0] == words


ASK, ANSWER = message("user", "q"), message("assistant", "a")


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(
    ("talk", "tools", "reason"),
    [
        (
            [ASK, message("assistant", "a", tool_calls=[{"name": "f"}])],
            None,
            "messages[1]: the template has no place for 'tool_calls'",
        ),
        (
            [ASK, message("assistant", "a", reasoning_content="b")],
            None,
            "messages[1]: the template has no place for 'reasoning_content'",
        ),
        (
            [ASK, ANSWER, message("tool", "r"), ANSWER],
            None,
            "messages[2]: the template has no place for the role 'tool'",
        ),
        (
            [ASK, ANSWER, message("system", "r"), ASK, ANSWER],
            None,
            "messages[2]: the template has no place for the role 'system' there",
        ),
        ([ASK, ANSWER], ({"name": "f"},), "the template has no place for 'tools'"),
        ([message("system", "be")], None, "the conversation has no message beside the system prompt"),
    ],
)
def test_what_a_template_has_no_place_for_is_refused_by_name(
    chat_words: Path, template: str, talk: list[Message], tools: Any, reason: str
) -> None:
    assert str(words_of(chat_words, template, *talk, tools=tools)).startswith(reason)


@pytest.mark.parametrize("template", ["vicuna", "mistral", "alpaca"])
@pytest.mark.parametrize("talk", [[ANSWER, ASK], [ASK, ASK, ANSWER], [ASK, ANSWER, ANSWER]])
def test_turns_out_of_order_are_refused_where_a_prompt_holds_a_question(
    chat_words: Path, template: str, talk: list[Message]
) -> None:
    assert "user and assistant take turns" in words_of(chat_words, template, *talk)


def test_a_question_at_the_end_is_not_trained(chat_words: Path) -> None:
    words, roles = words_of(chat_words, "mistral", ASK, ANSWER, message("user", "r"))
    assert (words, roles) == ("<s> [INST] q [/INST] a </s> [INST] r [/INST]", "0000" + "12" + "000")
