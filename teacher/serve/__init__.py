"""`footfall serve`: a stream for other programs, over HTTP and WebSocket (docs/stream.md)."""
