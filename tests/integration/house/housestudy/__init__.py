"""A study as a user keeps it: a package of their own and a configuration directory."""
