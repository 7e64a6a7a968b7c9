"""Photometric refinement: cameras, poses and Gaussians of one clip, by rendering (docs/gaussians.md)."""
