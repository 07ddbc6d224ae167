"""GPU kernels without a GPU: compiled for GPUs that are not here, and their time predicted."""
