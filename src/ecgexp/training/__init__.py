"""Training of a net, in one process or in several."""
