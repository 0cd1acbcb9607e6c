"""Plugins: hooks, the registry of what is installed, factories that build their objects."""
