"""The language in which losses and layers are written as functions: symbolic arrays, their gradients, their kernels."""
