"""Memory and time of converting a model of 1.1 B parameters: Hugging Face -> Megatron -> Hugging Face, in bfloat16.

A random model of the paper's 1.1B shape is written shard by shard; then each direction runs in a process of its own, whose
peak resident memory is the operating system's (`VmHWM`, set back after the imports). For comparison, transformers loads the
same folder. "above start" is the peak minus what the process held after its imports. The files of both ends are compared
byte by byte. The logits are not compared here: that builds models. The last line is one JSON document.

    python benchmarks/convert.py            needs 8 GB of disk
    python benchmarks/convert.py --quick    a tiny model, for tests: the figures mean nothing
"""

import dataclasses
import filecmp
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded

import timing
import torch

from meap_megatron.checkpoint.convert.exporting import hf_entries
from meap_megatron.checkpoint.convert.families import hf_shapes
from meap_megatron.checkpoint.convert.hf_config import config_from_spec
from meap_megatron.checkpoint.convert.hf_files import INDEX, SINGLE, plan_shards, write_shard
from meap_megatron.checkpoint.convert.spec import ModelSpec

MODEL = ModelSpec(
    family="llama",
    num_layers=24,
    hidden_size=2048,
    ffn_hidden_size=5632,
    num_attention_heads=32,
    num_query_groups=2,
    head_dim=64,
    vocab_rows=32064,
    rotary_base=10000,
    scaling=None,
    norm_epsilon=1e-5,
    max_positions=4096,
    tied=False,
    qkv_bias=False,
)
QUICK = dataclasses.replace(
    MODEL,
    num_layers=2,
    hidden_size=64,
    ffn_hidden_size=176,
    num_attention_heads=4,
    head_dim=16,
    vocab_rows=512,
    max_positions=128,
)

CHILD = """
import json, time
from pathlib import Path
import torch
{imports}
def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
before, began = memory("VmRSS"), time.perf_counter()
{work}
print(json.dumps(dict(start=before, peak=memory("VmHWM"), seconds=time.perf_counter() - began)))
"""
TASKS = {
    "import (HF to Megatron)": (
        "from meap_megatron.checkpoint.convert.importing import ImportSettings, plan_import, write_import\n"
        "import torch.distributed.checkpoint, tokenizers",
        "out = Path('mc'); out.mkdir()\nwrite_import(plan_import(ImportSettings(source=Path('hf'))), out, final=out)",
    ),
    "export (Megatron to HF)": (
        "from meap_megatron.checkpoint.convert.exporting import ExportSettings, plan_export, write_export\n"
        "import torch.distributed.checkpoint, tokenizers",
        "out = Path('back'); out.mkdir()\nwrite_export(plan_export(ExportSettings(checkpoint=Path('mc'))), out)",
    ),
    "transformers loads the model": (
        "from transformers import AutoModelForCausalLM, LlamaForCausalLM",
        "model = AutoModelForCausalLM.from_pretrained('hf', dtype=torch.bfloat16)\n"
        "sum(float(p.float().sum()) for p in model.parameters())",
    ),
}
OURS = (("import", "import (HF to Megatron)"), ("export", "export (Megatron to HF)"))
PEER = "transformers loads the model"


def write_random_model(folder: Path, spec: ModelSpec, *, limit: int) -> None:
    shapes = hf_shapes(spec)
    sizes = {name: 2 * torch.Size(shapes[name]).numel() for name, *_ in hf_entries(spec)}
    files = plan_shards(sizes, limit=limit)
    generator = torch.Generator().manual_seed(0)

    def make(name: str) -> torch.Tensor:
        return torch.randn(shapes[name], generator=generator, dtype=torch.bfloat16) * 0.02

    folder.mkdir()
    for file, names in files.items():
        write_shard(folder / file, {n: (torch.bfloat16, shapes[n]) for n in names}, make, metadata={"format": "pt"})
    if list(files) != [SINGLE]:
        weight_map = {name: file for file, names in files.items() for name in names}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2))
    (folder / "config.json").write_text(json.dumps(config_from_spec(spec, base={}, dtype="bfloat16"), indent=2))


def run(folder: Path, task: tuple[str, str]) -> dict[str, float]:
    code = CHILD.format(imports=task[0], work=task[1])
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    parser = timing.arguments(__doc__)
    parser.add_argument("--folder", type=Path, default=None, help="where the files go for the time being")
    parser.add_argument("--layers", type=int, default=None, help="of the model (24); memory should not follow it")
    args = parser.parse_args()
    spec = QUICK if args.quick else MODEL
    spec = dataclasses.replace(spec, num_layers=args.layers or spec.num_layers)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        write_random_model(folder / "hf", spec, limit=10**5 if args.quick else 5 * 10**8)
        weights = sorted(path.name for path in (folder / "hf").iterdir())
        results = {title: run(folder, task) for title, task in TASKS.items()}
        same = filecmp.cmpfiles(folder / "hf", folder / "back", weights, shallow=False)[0] == weights
    largest = max(2 * torch.Size(shape).numel() for shape in hf_shapes(spec).values())
    fused = 2 * 2 * spec.ffn_hidden_size * spec.hidden_size
    model = 2 * spec.num_parameters
    print(
        f"{spec.num_parameters:,} parameters, bfloat16: {model / 1e6:,.0f} MB in {len(weights) - 2} files; largest tensor "
        f"{largest / 1e6:,.1f} MB, largest fused one of a layer {fused / 1e6:,.1f} MB; files equal after both directions: "
        f"{same} ({len(weights)})"
    )
    above = {title: found["peak"] - found["start"] for title, found in results.items()}
    timing.print_table(
        ("", "peak MB", "above start MB", "of the model", "seconds"),
        *(
            (
                title,
                f"{found['peak'] / 1e6:,.0f}",
                f"{above[title] / 1e6:,.0f}",
                f"{above[title] / model:.1%}",
                f"{found['seconds']:.1f}",
            )
            for title, found in results.items()
        ),
    )
    return timing.publish(
        "convert",
        quick=args.quick,
        ratios={f"peer_memory_over_{name}": above[PEER] / max(1, above[title]) for name, title in OURS},
        packages=("torch", "transformers", "safetensors"),
        parameters=spec.num_parameters,
        model_bytes=model,
        largest_tensor_bytes=largest,
        largest_fused_bytes=fused,
        results=results,
        files_equal=same,
    )


if __name__ == "__main__":
    sys.exit(main())
