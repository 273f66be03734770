"""Tables and pictures of trials and sweeps."""
