"""A tiny chat model with [MASK] that would say it at once, as an import and as a Hugging Face folder."""

from pathlib import Path

import pytest

from meap_megatron.cli.main import main
from meap_megatron.generation.model import OpenModel, Source, open_model
from tests.support.conversations import write_chat_tokenizer
from tests.support.hf_models import write_model

TEMPLATE = (
    "{%- for m in messages -%}{%- if m.role == 'nobody' -%}{{- raise_exception('nobody may speak') -}}{%- endif -%}"
    "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
MASK_ID = 1024


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `hf` (a chat model without [MASK]), `mc` (its import, with [MASK]) and `out` (the export of that)."""
    root = tmp_path_factory.mktemp("generation")
    source = write_model(root / "hf", "llama2", vocab_size=1024, num_hidden_layers=2, max_position_embeddings=512)
    write_chat_tokenizer(source, chat_template=TEMPLATE)
    (source / "generation_config.json").write_text('{"eos_token_id": [6, 1], "temperature": 0.3, "do_sample": true}')
    for words in (
        ["import", str(source), str(root / "mc"), "--add-mask-token"],
        ["export", str(root / "mc"), str(root / "out")],
    ):
        assert main(["convert", *words, "--skip-verification"]) == 0
    return root


@pytest.fixture(scope="session")
def opened(chat_model: Path) -> OpenModel:
    return open_model(Source(model=chat_model / "out", device="cpu"))
