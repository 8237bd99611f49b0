"""Tasks that ask for something in a long prompt: the paper's, and RULER, BABILong, NoLiMa, HELMET's recall."""
