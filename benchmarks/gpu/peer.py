"""Check f, the peer: Transformers' Llama of the same shape, eager and compiled, in the same run of the script."""

import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu import process
from benchmarks.gpu.session import Session, read_json, tail, write_json

GAIN = 1.3
"""To reach at 1.1B against the compiled peer."""
MICRO, COUNT = 2, 8
"""Sequences and micro-batches: the tokens of our step; four sequences at a time may not fit uncompiled."""
SHAPE = {
    "vocab_size": 32_064,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
QUICK_SHAPE = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def run(session: Session) -> None:
    """Measure the peer and set ours beside it."""
    report, log = session.work / "peer.json", session.work / "peer.log"
    # In an interpreter of its own on a GPU: this project's replacements must not reach the peer.
    started = process.start(
        measure, str(report), session.device, session.quick, device=session.device, log=log, fresh=session.on_gpu
    )
    status = process.wait(started, 170)
    found = read_json(report) or {}
    for name, seconds in found.get("seconds", {}).items():
        session.add(f"{name}: step", seconds, "s")
        session.add(f"{name}: tokens/s", found["tokens"] / seconds, "tokens/s")
        if found["peak_gb"][name] is not None:
            session.add(f"{name}: peak memory", found["peak_gb"][name], "GB")
    if status != 0 and not found:
        raise RuntimeError(f"the peer ended with {status}\n{tail(log)}")
    if session.on_gpu:
        ours = session.earlier("throughput_1.1b_bf16", "tokens/s")
        compiled = found.get("seconds", {}).get("compiled")
        goal = {"at_least": GAIN, "target": True} if session.is_h100 else {}
        session.add("ours / compiled", ours * compiled / found["tokens"] if ours and compiled else None, **goal)


def measure(report: str, device: str, quick: bool) -> None:
    """Train the peer: bfloat16 autocast over float32 weights, SDPA, fused AdamW, gradients clipped."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = QUICK_SHAPE if quick else SHAPE
    config = LlamaConfig(**shape, tie_word_embeddings=False, use_cache=False, attn_implementation="sdpa")
    torch.manual_seed(1)
    with torch.device(device):
        model = LlamaForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    length = shape["max_position_embeddings"]
    rows = torch.randint(3, shape["vocab_size"], (4 * COUNT, MICRO, length), device=device)
    found: dict[str, Any] = {"tokens": MICRO * COUNT * length, "seconds": {}, "peak_gb": {}}

    def step(number: int) -> float:
        began = time.perf_counter()
        for micro in range(COUNT):
            batch = rows[(COUNT * number + micro) % len(rows)]
            with torch.autocast(device, torch.bfloat16):
                loss = model(input_ids=batch, labels=batch, use_cache=False).loss / COUNT
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    def contest(name: str, steps: int, seconds: float) -> None:
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        began = time.monotonic()
        times: list[float] = []
        while len(times) < steps and time.monotonic() - began < seconds:
            times.append(step(len(times)))
        found["seconds"][name] = statistics.median(times[2:] or times)
        found["peak_gb"][name] = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else None
        write_json(Path(report), found)

    contest("eager", 5, 30)
    if device == "cuda":  # on a CPU the compiler takes longer than the test may
        for layer in model.model.layers:
            layer.compile()  # one compilation for all of them
        contest("compiled", 10, 90)
