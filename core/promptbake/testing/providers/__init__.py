"""The conformance suite for data providers, a module for each thing that it looks at."""
