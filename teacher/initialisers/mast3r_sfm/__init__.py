"""MASt3R-SfM in our own code: matches, canonical views and a sparse global alignment of a pairwise pointmap network.

Duisterhof et al., "MASt3R-SfM" (3DV 2025), and Leroy et al., "Grounding Image Matching in 3D with MASt3R" (ECCV 2024).
`matching` pixels that find each other · `canonical` one pointmap per image · `tree` who hangs on whom · `alignment` the
two-stage optimisation.
"""
