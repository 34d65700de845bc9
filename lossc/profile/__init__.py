"""How long kernels take, and how long this machine needs at least."""
