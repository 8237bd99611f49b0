"""Published checkpoints: what their config.json says of the shape, and their parameters.

Shapes: config.json of each model on the Hugging Face Hub. Parameters: as the Hub's page of the model counts them from the
safetensors headers. Where the files of a tied model hold the head a second time (Qwen3-0.6B: 751,632,384, and -1.7B:
2,031,739,904), it is counted once here, as keras-hub's presets do (`params` of qwen3_0.6b_en and qwen3_1.7b_en).
"""

from typing import Any


def fields(layers: int, hidden: int, ffn: int, heads: int, groups: int, rows: int, **more: Any) -> dict[str, Any]:
    """Return the fields of a config.json."""
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "vocab_size": rows,
        **more,
    }


QWEN3: dict[str, Any] = {
    "model_type": "qwen3",
    "head_dim": 128,
    "rope_theta": 1_000_000,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 40_960,
    "use_sliding_window": False,
    "max_window_layers": 36,
}
TIED = {"tie_word_embeddings": True}
UNTIED = {"tie_word_embeddings": False}
LLAMA3 = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "rope_theta": 500_000.0,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131_072,
}
QWEN2: dict[str, Any] = {
    "model_type": "qwen2",
    "rope_theta": 1_000_000.0,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32_768,
    "use_sliding_window": False,
}
SMOLLM3 = {
    "model_type": "smollm3",
    "rope_theta": 5_000_000.0,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 65_536,
    "no_rope_layers": [1, 1, 1, 0] * 9,
    "no_rope_layer_interval": 4,
    "use_sliding_window": False,
}
MISTRAL = {
    "model_type": "mistral",
    "rope_theta": 1_000_000.0,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 32_768,
    "sliding_window": None,
}

PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "Qwen3-0.6B": (QWEN3 | TIED | fields(28, 1024, 3072, 16, 8, 151_936), 596_049_920),
    "Qwen3-1.7B": (QWEN3 | TIED | fields(28, 2048, 6144, 16, 8, 151_936), 1_720_574_976),
    "Qwen3-4B": (QWEN3 | TIED | fields(36, 2560, 9728, 32, 8, 151_936), 4_022_468_096),
    "Qwen3-8B": (QWEN3 | UNTIED | fields(36, 4096, 12288, 32, 8, 151_936), 8_190_735_360),
    "Qwen3-14B": (QWEN3 | UNTIED | fields(40, 5120, 17408, 40, 8, 151_936), 14_768_307_200),
    "Qwen3-32B": (QWEN3 | UNTIED | fields(64, 5120, 25600, 64, 8, 151_936), 32_762_123_264),
    "SmolLM3-3B": (SMOLLM3 | TIED | fields(36, 2048, 11008, 16, 4, 128_256), 3_075_098_624),
    "SmolLM2-135M": (
        LLAMA | TIED | {"rope_theta": 100_000} | fields(30, 576, 1536, 9, 3, 49_152),
        134_515_008,
    ),
    "Llama-3.2-1B": (
        LLAMA | TIED | fields(16, 2048, 8192, 32, 8, 128_256, head_dim=64, rope_scaling=LLAMA3 | {"factor": 32.0}),
        1_235_814_400,
    ),
    "Llama-3.1-8B": (
        LLAMA | UNTIED | fields(32, 4096, 14336, 32, 8, 128_256, rope_scaling=LLAMA3 | {"factor": 8.0}),
        8_030_261_248,
    ),
    "Qwen2.5-0.5B": (QWEN2 | TIED | fields(24, 896, 4864, 14, 2, 151_936), 494_032_768),
    "Qwen2.5-7B": (QWEN2 | UNTIED | fields(28, 3584, 18944, 28, 4, 152_064), 7_615_616_512),
    "Mistral-7B-v0.3": (MISTRAL | UNTIED | fields(32, 4096, 14336, 32, 8, 32_768), 7_248_023_552),
}
"""Model -> (config.json, parameters)."""
