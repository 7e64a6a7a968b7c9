"""A spanning tree over images: each camera is measured relative to its parent, from the centre outwards."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import linkage
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from scipy.spatial.distance import squareform

Array = NDArray[Any]
Tree = tuple[int, list[tuple[int, int]]]
"""The root, and edges (parent, child) from the root outwards."""


def spanning_tree(matches: Array) -> Tree:
    """The tree with the most matches (JOSH's choice).

    Args:
        matches: [N, N] number of matches of each pair of images, symmetric.
    """
    cost = csr_array(np.triu(-np.asarray(matches, np.float64)))
    return _from_centre(minimum_spanning_tree(cost))


def ward_tree(matches: Array, patches: Array) -> Tree:
    """The tree of merges of a hierarchical clustering by Ward's linkage (MASt3R-SfM's choice).

    Similarity is min(1, matches / (3 min(patches))), distance 1 - similarity, and 2 without a match. Each merge joins
    the representatives of two clusters; of the two the image with more matches stands for both.

    Args:
        matches: [N, N] number of matches of each pair, symmetric. patches: [N] number of depth anchors of each image.
    """
    matches = np.asarray(matches, np.float64)
    least = np.minimum(patches[:, None], patches)
    similarity = np.minimum(1, matches / (3 * least))
    distance = np.where(matches > 0, 1 - similarity, 2.0)
    np.fill_diagonal(distance, 0)
    importance = matches.sum(1)
    speaker = list(range(len(matches)))
    graph = np.zeros_like(matches)
    for first, second, *_ in linkage(squareform(distance, checks=False), method="ward"):
        a, b = speaker[int(first)], speaker[int(second)]
        graph[min(a, b), max(a, b)] = -1 - matches[a, b]
        speaker.append(a if importance[a] > importance[b] else b)
    return _from_middle(csr_array(graph), speaker[-1])


def _from_centre(tree: csr_array) -> Tree:
    """Order a tree from its centre: the middle of a sweep from the end of another sweep."""
    end = breadth_first_order(tree, 0, directed=False, return_predecessors=False)[-1]
    return _from_middle(tree, int(end))


def _from_middle(tree: csr_array, start: int) -> Tree:
    """Order a tree from the middle of a sweep from `start`."""
    sweep = breadth_first_order(tree, start, directed=False, return_predecessors=False)
    root = int(sweep[len(sweep) // 2])
    order, parent = breadth_first_order(tree, root, directed=False)
    return root, [(int(parent[node]), int(node)) for node in order[1:]]
