"""What may be configured, and the objects that a configuration names."""
