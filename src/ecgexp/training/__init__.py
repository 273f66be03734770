"""Training a net in this process, or in several."""
