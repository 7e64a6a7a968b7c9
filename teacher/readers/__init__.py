"""Readers of other people's result files: bodies, cameras and contacts as initialisers (docs/initialisers.md)."""
