"""Masked inputs in Transformers' Trainer and TRL's SFTTrainer: the real trainers, tiny models, what the model is given."""

import copy
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    DataCollatorForLanguageModeling,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from meap_megatron.collators import IGNORED, MaskedCopies, MaskedInputs
from meap_megatron.errors import UserError

WORDS = [f"w{i}" for i in range(40)]


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate(["<s>", "</s>", "<pad>", "[MASK]", *WORDS])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<s>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "mask_token": "[MASK]"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, **names)


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=44,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=256,
    )
    return LlamaForCausalLM(config)


class Seen:
    """What a model is given, batch by batch, told apart by training or evaluation."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.training: list[dict] = []
        self.evaluation: list[dict] = []
        forward = model.forward

        def spy(*args, **kwargs):
            kept = {name: kwargs[name].clone() for name in ("input_ids", "labels") if kwargs.get(name) is not None}
            (self.training if model.training else self.evaluation).append(kept)
            return forward(*args, **kwargs)

        # Trainer asks the signature of forward for the columns that it may keep.
        spy.__signature__ = __import__("inspect").signature(forward)
        spy.__wrapped__ = forward
        model.forward = spy


def texts(count: int, *, length: int = 20) -> list[dict]:
    return [{"input_ids": [0, *(4 + (7 * i + j) % 40 for j in range(length - 1 - i % 4))]} for i in range(count)]


def arguments(folder: Path, **changed) -> dict:
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 2,
        "num_train_epochs": 2,
        "report_to": [],
        "use_cpu": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "learning_rate": 1e-3,
    }
    return settings | changed


@pytest.mark.parametrize("workers", [0, 2])
def test_the_trainer_reads_masked_inputs_and_plain_labels(tokenizer, model, tmp_path, workers):
    data, seen = texts(6), Seen(model)
    trainer = Trainer(
        model,
        args=TrainingArguments(**arguments(tmp_path, dataloader_num_workers=workers, gradient_accumulation_steps=2)),
        train_dataset=data,
        eval_dataset=data[:2],
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )
    MaskedInputs.of(tokenizer, ratio=0.3).attach(trainer)
    trainer.train()
    trainer.evaluate()
    rows = [(i, t) for batch in seen.training for i, t in zip(batch["input_ids"], batch["labels"], strict=True)]
    assert len(rows) == 12
    masks = {}
    for inputs, labels in rows:
        real = labels != IGNORED
        masked = inputs == 3
        assert int(masked.sum()) == int(int(real.sum()) * 0.3)
        assert not masked[int(real.nonzero().max())], "the last token of an example is never masked"
        assert (inputs[real & ~masked] == labels[real & ~masked]).all()
        assert (labels != 3).all()
        masks.setdefault(tuple(labels[real].tolist()), []).append(tuple(masked[real].tolist()))
    assert len(masks) == 6
    assert all(len(set(both)) == 2 for both in masks.values()), "fresh masks in the second epoch"
    assert seen.evaluation and all((batch["input_ids"] != 3).all() for batch in seen.evaluation)


def test_masks_depend_on_the_example_and_nothing_else(tokenizer):
    base = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    data = texts(5)
    collator = MaskedInputs.of(tokenizer, ratio=0.3, base=base)
    alone = [collator([example])["input_ids"][0] for example in copy.deepcopy(data)]
    together = collator(copy.deepcopy(data[::-1]))["input_ids"].flip(0)
    for own, row in zip(alone, together, strict=True):
        assert row[: own.numel()].tolist() == own.tolist()
    tokenizer.padding_side = "left"
    left = collator(copy.deepcopy(data))["input_ids"]
    for own, row in zip(alone, left, strict=True):
        assert row[row.numel() - own.numel() :].tolist() == own.tolist()


def test_random_tokens_are_ordinary_ones(tokenizer):
    base = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    batch = MaskedInputs.of(tokenizer, ratio=0.9, corruption="random", base=base)(texts(40))
    real = batch["labels"] != IGNORED
    assert (batch["input_ids"][real][1:] != 3).all()
    changed = real & (batch["input_ids"] != batch["labels"])
    assert changed.sum() > 300 and int(batch["input_ids"][changed].min()) >= 4


def conversation(number: int, *, answer: int) -> dict:
    prompt = [0, *(4 + (number + j) % 40 for j in range(5))]
    reply = [*(4 + (3 * number + j) % 40 for j in range(answer)), 1]
    return {"input_ids": prompt + reply, "labels": [IGNORED] * len(prompt) + reply}


def stack(examples: list[dict]) -> dict:
    width = max(len(example["input_ids"]) for example in examples)

    def padded(name: str, value: int) -> torch.Tensor:
        return torch.tensor([example[name] + [value] * (width - len(example[name])) for example in examples])

    return {"input_ids": padded("input_ids", 2), "labels": padded("labels", IGNORED)}


def test_a_copy_hides_a_tenth_of_the_answer_and_trains_what_it_hides(tokenizer):
    short, long = conversation(1, answer=8), conversation(2, answer=60)
    batch = MaskedCopies.of(tokenizer, ratio=0.1, base=stack)([short, long])
    inputs, labels = batch["input_ids"], batch["labels"]
    assert len(inputs) == 3, "the short answer has no copy"
    assert inputs[1].tolist() == long["input_ids"] and labels[1].tolist() == long["labels"]
    masked = (inputs[2] == 3).nonzero().flatten().tolist()
    assert len(masked) == 6 and all(6 <= position < 66 for position in masked)
    assert (labels[2] != IGNORED).nonzero().flatten().tolist() == masked
    assert labels[2][masked].tolist() == [long["input_ids"][position] for position in masked]
    whole = MaskedCopies.of(tokenizer, ratio=0.1, base=stack, loss_on_copy="answer")([long])
    assert whole["labels"][1].tolist() == long["labels"]
    assert whole["input_ids"][1].tolist() == inputs[2].tolist()


def test_the_copies_are_those_of_the_megatron_dataset(tokenizer):
    """The same function chooses the tokens of an answer; only the index of the example is made of its content."""
    import numpy as np

    from meap_megatron.collators import _index_of
    from meap_megatron.datasets.sft.answer_masks import masked_positions

    long = conversation(5, answer=70)
    batch = MaskedCopies.of(tokenizer, ratio=0.2, seed=9, base=stack)([long])
    roles = np.array([0] * 6 + [1] * 70 + [2], dtype=np.uint8)
    rules = {"min_answer_tokens": 50, "ratio": 0.2, "seed": 9, "dataset_key": 0, "epoch": 0}
    index = _index_of(np.array(long["input_ids"]), 0)
    expected = masked_positions(roles, conversation=index, **rules)
    assert (batch["input_ids"][1] == 3).nonzero().flatten().tolist() == expected.tolist()


SFT_CASES = {
    "padded": {},
    "gradient accumulation": {"gradient_accumulation_steps": 2},
    "packing": {"packing": True, "max_length": 128, "packing_strategy": "wrapped"},
}


@pytest.mark.parametrize("case", SFT_CASES)
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_trl_fine_tunes_on_masked_copies(tokenizer, model, tmp_path, case, lora):
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    rows = [
        {"prompt": " ".join(WORDS[i : i + 4]), "completion": " " + " ".join(WORDS[(i + j) % 40] for j in range(60))}
        for i in range(8)
    ]
    options = SFT_CASES[case]
    peft_config = None
    if lora:
        peft = pytest.importorskip("peft")
        peft_config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    trainer = trl.SFTTrainer(
        model,
        args=trl.SFTConfig(
            **arguments(tmp_path, num_train_epochs=1, bf16=False, gradient_checkpointing=False, eval_strategy="no"),
            **options,
        ),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows[:2]),
        processing_class=tokenizer,
        peft_config=peft_config,
    )
    inner = trainer.model.get_base_model() if lora else trainer.model
    seen = Seen(inner)
    MaskedCopies.of(tokenizer, ratio=0.25).attach(trainer)
    before = {name: value.clone() for name, value in trainer.model.named_parameters() if value.requires_grad}
    trainer.train()
    trainer.evaluate()
    masked = sum(int((batch["input_ids"] == 3).sum()) for batch in seen.training)
    trained = sum(
        int((batch["labels"][batch["input_ids"] == 3] != IGNORED).sum())
        for batch in seen.training
        if "labels" in batch
    )
    assert masked > 0 and (trained == masked or not any("labels" in batch for batch in seen.training))
    if case == "padded":
        assert masked == 8 * 15 and sum(len(batch["input_ids"]) for batch in seen.training) == 16
    assert all((batch["input_ids"] != 3).all() for batch in seen.evaluation)
    changed = [
        name for name, value in trainer.model.named_parameters() if name in before and not value.equal(before[name])
    ]
    assert changed and (not lora or all("lora" in name for name in changed))


def test_a_padding_free_batch_is_masked_example_by_example(tokenizer):
    trl = pytest.importorskip("trl")
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling as Flat

    assert trl
    examples = [conversation(2, answer=60), conversation(3, answer=55)]
    flat = MaskedCopies.of(tokenizer, ratio=0.1, base=Flat(pad_token_id=2, padding_free=True))(examples)
    padded = MaskedCopies.of(tokenizer, ratio=0.1, base=stack)(examples)
    real = torch.cat([row[:n] for row, n in zip(padded["input_ids"], (67, 67, 62, 62), strict=True)])
    assert flat["input_ids"][0].tolist() == real.tolist()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: MaskedCopies.of(t, ratio=0.0), "ratio is 0.0"),
        (lambda t: MaskedCopies.of(t, loss_on_copy="all"), "loss_on_copy is 'all'"),
        (lambda t: MaskedCopies.of(t, corruption="random", ordinary=None), "give the ids of which"),
        (lambda t: MaskedInputs.of(t, ratio=1.5), "must be in"),
        (lambda t: MaskedInputs.of(t, strategy="official51", global_batch_size=4), "neither the step"),
        (lambda t: MaskedInputs.of(t, ratio="0@0,0.1@1"), "how long training lasts"),
        (lambda t: MaskedInputs.of(t)([{"input_ids": [1, 2]}]), "has no base"),
        (lambda t: MaskedCopies.of(t, base=stack)([{"input_ids": [1, 2]}]), "no labels"),
    ],
)
def test_what_cannot_work_is_named(tokenizer, make, message):
    with pytest.raises(UserError, match=message):
        make(tokenizer)


def test_a_tokenizer_without_a_mask_token_is_told_how_to_get_one(tokenizer):
    tokenizer.mask_token = None
    with pytest.raises(UserError, match="add_special_tokens.*resize_token_embeddings"):
        MaskedInputs.of(tokenizer)
