"""A run: its settings, its folder, what it has spent, and the session that opens its parts."""
