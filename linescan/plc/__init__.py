"""Drivers for PLCs and plant IT, one file a dialect."""
