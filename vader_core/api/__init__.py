"""What can be asked for, as functions: they print nothing and report to a listener."""
