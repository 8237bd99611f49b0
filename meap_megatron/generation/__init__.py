"""Text from a model: a checkpoint folder of a run, an import, or a Hugging Face folder.

opened = open_model(Source(model=Path("runs/mine")))
answer(opened, [prompt_ids(opened, "def main():")], Sampling(max_tokens=64))
"""
