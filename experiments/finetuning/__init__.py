"""Fine-tuning a small chat model: NTP against MEAP. docs/experiments/finetuning.md.

python -m experiments.finetuning run --model DIR_OR_GGUF --alpaca FILE --questions DIR --out FOLDER
python -m experiments.finetuning report --out FOLDER
"""
