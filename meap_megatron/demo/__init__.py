"""`meap demo`: from the Python standard library to two trained models and one page, offline, on a laptop's CPU."""
