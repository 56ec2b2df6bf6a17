"""Pretend hospitals, and the engines that run them on one machine."""
