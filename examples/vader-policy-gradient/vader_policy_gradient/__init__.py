"""A policy gradient as an objective of vader."""
