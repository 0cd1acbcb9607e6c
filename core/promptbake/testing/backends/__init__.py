"""The conformance suite for backends, a module for each thing that it looks at."""
