"""Tasks that ask for something in a long prompt: needle, multi-document questions, key-value pairs, chains of facts."""
