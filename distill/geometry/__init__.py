"""Conventions, rotations, transforms, cameras and alignment. `conventions` is the page to read first."""
