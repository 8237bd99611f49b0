"""What replaces CUDA on a CPU: kernels, linear layers, stand-ins for CUDA objects."""
