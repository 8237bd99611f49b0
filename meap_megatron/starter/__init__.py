"""What `meap init` does: look at a folder, and write a recipe and a script for what is in it."""
