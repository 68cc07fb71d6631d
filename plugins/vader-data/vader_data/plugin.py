"""Registers the commands of ``vader data``; imports nothing heavy."""
