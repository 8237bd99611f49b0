"""Runs that differ in a few settings: plan them, see how far they are, put their results into the paper's tables."""
