"""The version, where the build reads it without importing PyTorch."""

__version__ = "0.2.0"
