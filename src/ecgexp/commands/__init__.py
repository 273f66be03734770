"""The commands: they read their arguments, and do what these ask for."""
