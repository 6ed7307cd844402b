"""Everything between a composed grid and running processes: rows, manifest, jobs, engines, state of a sweep."""
