"""What Python users call: nets, their blobs, and solvers."""
