"""What stands behind the commands: reading their arguments, and doing what they ask."""
