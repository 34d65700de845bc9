"""For users and tests: golden cases, gradient checks."""
