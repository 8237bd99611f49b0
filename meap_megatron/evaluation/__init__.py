"""A Hugging Face model -> scores: tasks for lm-evaluation-harness, and the runner behind `meap evaluate`."""
