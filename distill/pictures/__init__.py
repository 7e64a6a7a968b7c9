"""Pictures of results: overlays on frames, plots seen from above, an HTML page with a 3D view."""
