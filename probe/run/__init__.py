"""A probe at work: its parts wired together, its loop, and what it tells about itself."""
