"""The core's samplers: DDIM, Euler, DPM-Solver++ (2M) and rectified flow.

Importing this package imports no torch.
"""
