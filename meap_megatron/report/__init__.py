"""`meap report`: one page from results documents and training metrics."""
