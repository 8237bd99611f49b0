"""Checkpoints on disk: what a folder of them holds, which are whole, which one a run continues from.

Imports neither the trainer nor, except where a checkpoint's own index is read (`index`), torch.
"""
