"""One trial of a sweep: what it is, whether it was run before, and running it."""
