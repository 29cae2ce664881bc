"""sora-cli: text in, MP4 out."""

__version__ = "0.1.0"
