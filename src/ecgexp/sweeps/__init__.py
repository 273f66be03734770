"""Many trials as one."""
