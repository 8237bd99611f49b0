"""Suite `hallucination`: summaries of a model, compared with human ones by a judge."""
