"""MEAP in other trainers: masked inputs for Transformers' `Trainer` and TRL's `SFTTrainer`.

    trainer = SFTTrainer(model, args=args, train_dataset=conversations, processing_class=tokenizer)
    MaskedCopies.of(tokenizer, ratio=0.1).attach(trainer)     # fine-tuning: a masked copy of each example
    MaskedInputs.of(tokenizer, ratio=0.15).attach(trainer)    # pre-training: masked inputs, plain labels
    trainer.train()

Both wrap the collator that the trainer has, so padding, packing and padding-free batches stay what they are, and only
training batches are changed: evaluation reads clean inputs. Which positions are masked is a function of (seed, tokens of
the example, epoch): not of the order of reading, the number of workers or processes, or a resumption. The functions that
choose are those of the Megatron datasets; neither Megatron nor anything of its is imported here.
"""

import copy
import hashlib
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from meap_megatron import _C
from meap_megatron.config import MaskConfig
from meap_megatron.datasets.mask_stage import MaskStage
from meap_megatron.datasets.sft.answer_masks import masked_answers, masked_positions
from meap_megatron.errors import UserError
from meap_megatron.indexed.roles import ANSWER, END, PROMPT
from meap_megatron.masking.corruption import KEPT, Corruption, OrdinaryIds, replacements
from meap_megatron.masking.philox import REPLACE_STREAM, mask_key, word_stream

IGNORED = -100
"""The label that is not trained, in Transformers and TRL."""
Example = Mapping[str, Any]


class _Collator:
    """What both collators share: whose turn it is, and how they are put into a trainer."""

    def __init__(self, base: Callable[[list[Any]], dict[str, Any]] | None = None) -> None:
        self.base = base
        # In shared memory, so that loader workers that live through several epochs see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next, from 0; `attach` does it by itself."""
        self._epoch.fill_(epoch)

    @property
    def epoch(self) -> int:
        """The epoch of the examples that are read now."""
        return int(self._epoch)

    def attach(self, trainer: Any) -> Self:
        """Let a `Trainer` (or one derived from it) train on masked inputs; evaluation is left alone.

        Args:
            trainer: made, not yet trained.
        """
        from transformers import TrainerCallback

        collator = self

        class Epochs(TrainerCallback):
            """Tells the collator which epoch begins."""

            def on_epoch_begin(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
                collator.set_epoch(int(state.epoch or 0))

        make = trainer.get_train_dataloader

        def get_train_dataloader() -> Any:
            before = trainer.data_collator
            collator.base = collator.base or before
            trainer.data_collator = collator
            try:
                return make()
            finally:
                trainer.data_collator = before

        trainer.get_train_dataloader = get_train_dataloader
        trainer.add_callback(Epochs())
        return self

    @abstractmethod
    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Return a batch."""

    def _collated(self, examples: Sequence[Example]) -> dict[str, Any]:
        if self.base is None:
            raise UserError(
                "this collator has no base, which pads and stacks", fix="give base=, or use attach(trainer)"
            )
        return self.base(list(examples))


class MaskedInputs(_Collator):
    """Pre-training: a share of the input tokens of every example is masked, the labels stay.

    Args:
        base: the collator that makes batches of the examples; None: that of the trainer.
        config: what is masked; all of `MaskConfig` but strategies that follow the step and short documents.
    """

    def __init__(self, config: MaskConfig, *, base: Callable[[list[Any]], dict[str, Any]] | None = None) -> None:
        super().__init__(base)
        if config.strategy == "official51" or config.min_document_tokens or config.schedule.follows_training:
            raise UserError(
                "a collator knows neither the step, nor documents, nor how long training lasts",
                fix="leave out strategy 'official51', min_document_tokens and schedules of the ratio",
            )
        self._corruptor = _C.Corruptor(MaskStage(mask=config, dataset_key=0))
        self.config = config

    @classmethod
    def of(cls, tokenizer: Any, *, base: Callable[[list[Any]], dict[str, Any]] | None = None, **settings: Any) -> Self:
        """Return a collator for a tokenizer of Transformers; `settings` are fields of `MaskConfig`."""
        config = MaskConfig(mask_id=mask_id_of(tokenizer), ordinary=ordinary_ids_of(tokenizer), **settings)
        return cls(config, base=base)

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Return the batch of the base collator with masked `input_ids`; labels are made before masking."""
        batch = self._collated(examples)
        tokens = batch["input_ids"].clone()
        for row, columns, ids in _places(batch, examples):
            changed, _ = self._corruptor.apply(ids, _index_of(ids, self.epoch), ids.size, [])
            tokens[row, columns] = torch.from_numpy(changed)
        return batch | {"input_ids": tokens}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what cannot travel to a spawned worker."""
        return {name: value for name, value in self.__dict__.items() if name != "_corruptor"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _corruptor=_C.Corruptor(MaskStage(mask=state["config"], dataset_key=0)))


class MaskedCopies(_Collator):
    """Fine-tuning: each example, and a masked copy of it where an answer is long enough; a batch has up to twice the rows.

    The answers of an example are the runs of its labels that are not -100; special tokens at the end of a run close the
    answer and are neither masked nor trained in the copy. The copy trains the masked tokens only.

    Args:
        mask_id: of [MASK].
        end_ids: ids that close an answer.
        ratio: share of an answer's tokens to mask in the copy, in (0, 1).
        min_answer_tokens: an answer is masked if it has more tokens than this (the paper's code: 50).
        loss_on_copy: "masked" (the paper's code), or "answer" for all tokens of the answers and their ends.
        corruption: what takes the place of a chosen token.
        ordinary: of which random tokens are drawn.
        seed: of the masks.
        refresh: "static" masks (the paper's code), or "per_epoch".
        base: the collator that makes batches of the examples; None: that of the trainer.
    """

    def __init__(
        self,
        *,
        mask_id: int,
        end_ids: Sequence[int],
        ratio: float = 0.1,
        min_answer_tokens: int = 50,
        loss_on_copy: str = "masked",
        corruption: str = "mask",
        ordinary: OrdinaryIds | None = None,
        seed: int = 1234,
        refresh: str = "static",
        base: Callable[[list[Any]], dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(base)
        if not 0 < ratio < 1:
            raise UserError(
                f"ratio is {ratio}; it must be in (0, 1)", fix="without masked copies, leave the collator out"
            )
        for name, value, known in (
            ("loss_on_copy", loss_on_copy, ("masked", "answer")),
            ("refresh", refresh, ("static", "per_epoch")),
        ):
            if value not in known:
                raise UserError(f"{name} is {value!r}; it must be one of {', '.join(known)}")
        self.shares = Corruption.parse(corruption)
        if self.shares.random > 0 and ordinary is None:
            raise UserError(
                f"corruption is {corruption!r}, but ordinary is None",
                fix="give the ids of which tokens are drawn as ordinary",
            )
        self.mask_id, self.end_ids, self.ratio, self.ordinary = mask_id, tuple(end_ids), ratio, ordinary
        self.min_answer_tokens, self.loss_on_copy, self.seed = min_answer_tokens, loss_on_copy, seed
        self.refresh = refresh

    @classmethod
    def of(cls, tokenizer: Any, **settings: Any) -> Self:
        """Return a collator for a tokenizer of Transformers; `settings` as for the class."""
        defaults: dict[str, Any] = {
            "ordinary": ordinary_ids_of(tokenizer),
            "end_ids": sorted(special_ids_of(tokenizer)),
        }
        return cls(mask_id=mask_id_of(tokenizer), **defaults | settings)

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Return the batch of the base collator over the examples and their copies, each copy behind its original."""
        rows: list[Example] = []
        is_copy: list[bool] = []
        for example in examples:
            rows.append(example)
            is_copy.append(False)
            if masked_answers(self._roles(_labels(example)), min_answer_tokens=self.min_answer_tokens):
                rows.append(copy.copy(example))
                is_copy.append(True)
        batch = self._collated(rows)
        tokens, labels = batch["input_ids"].clone(), batch["labels"].clone()
        places = _places(batch, rows)
        for (row, columns, ids), example, copied in zip(places, rows, is_copy, strict=True):
            if copied:
                changed, trained = self._copy(ids, _labels(example))
                tokens[row, columns] = torch.from_numpy(changed)
                kept = torch.from_numpy(trained)
                labels[row, columns] = torch.where(kept, labels[row, columns], torch.tensor(IGNORED))
        return batch | {"input_ids": tokens, "labels": labels}

    def _copy(self, ids: NDArray[np.int64], labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the masked tokens of one example, and which labels its copy trains."""
        index = _index_of(ids, self.epoch if self.refresh == "per_epoch" else 0)
        roles = self._roles(labels)
        masked = masked_positions(
            roles,
            min_answer_tokens=self.min_answer_tokens,
            ratio=self.ratio,
            seed=self.seed,
            dataset_key=0,
            conversation=index,
            epoch=0,
        )
        words = word_stream(mask_key(self.seed, 0), REPLACE_STREAM, index)
        replaced = replacements(
            words, masked.size, corruption=self.shares, mask_id=self.mask_id, ordinary=self.ordinary
        )
        changed = ids.copy()
        changed[masked[replaced != KEPT]] = replaced[replaced != KEPT]
        trained = np.zeros(ids.size, dtype=np.bool_)
        trained[masked] = True
        return changed, trained if self.loss_on_copy == "masked" else roles != PROMPT

    def _roles(self, labels: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return uint8[n]: what each token is, as `meap preprocess sft` would say it."""
        roles = np.where(labels == IGNORED, PROMPT, ANSWER).astype(np.uint8)
        is_last = np.append(roles[1:] == PROMPT, True)
        for last in np.flatnonzero((roles == ANSWER) & is_last).tolist():
            while last >= 0 and roles[last] == ANSWER and labels[last] in self.end_ids:
                roles[last] = END
                last -= 1
        return roles


def mask_id_of(tokenizer: Any) -> int:
    """Return the id of a tokenizer's mask token.

    Raises:
        UserError: it has none.
    """
    if tokenizer.mask_token_id is None:
        raise UserError(
            "the tokenizer has no mask token",
            fix="add one, and a row for it to the model: tokenizer.add_special_tokens({'mask_token': '[MASK]'}); "
            "model.resize_token_embeddings(len(tokenizer))",
        )
    return int(tokenizer.mask_token_id)


def special_ids_of(tokenizer: Any) -> set[int]:
    """Return the ids of a tokenizer's special tokens."""
    added = {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def ordinary_ids_of(tokenizer: Any) -> OrdinaryIds:
    """Return the ids of which random tokens are drawn: all but the special ones and those without a token."""
    vocabulary = set(tokenizer.get_vocab().values())
    unused = set(range(len(tokenizer))) - vocabulary
    return OrdinaryIds.without(len(tokenizer), unused | special_ids_of(tokenizer))


def _index_of(ids: NDArray[np.int64], epoch: int) -> int:
    """Return a sample index below 2**63 for the tokens of an example in one epoch."""
    digest = hashlib.blake2b(ids.tobytes() + epoch.to_bytes(8, "little"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _labels(example: Example) -> NDArray[np.int64]:
    if "labels" not in example:
        raise UserError(
            "an example has no labels, so its answers are not known",
            fix="give prompt and completion, or messages with assistant_only_loss=True",
        )
    return np.asarray(example["labels"], dtype=np.int64)


def _places(batch: dict[str, Any], examples: Sequence[Example]) -> list[tuple[int, slice, NDArray[np.int64]]]:
    """Return where the tokens of each example are in a batch: row, columns, and the tokens int64[n].

    Padded batches have a row for each example, padded on either side; a padding-free one has a single row.
    """
    ids = [np.asarray(example["input_ids"], dtype=np.int64) for example in examples]
    tokens = batch["input_ids"]
    found: list[tuple[int, slice, NDArray[np.int64]]] = []
    if tokens.shape[0] == len(ids):
        mask = batch.get("attention_mask")
        for row, own in enumerate(ids):
            start = int(mask[row].long().argmax()) if mask is not None and mask.ndim == 2 else 0
            found.append((row, slice(start, start + own.size), own))
    else:
        start = 0
        for own in ids:
            found.append((0, slice(start, start + own.size), own))
            start += own.size
    for row, columns, own in found:
        if tokens[row, columns].tolist() != own.tolist():
            raise UserError("the base collator changes the tokens of an example, so its masks cannot be placed")
    return found
