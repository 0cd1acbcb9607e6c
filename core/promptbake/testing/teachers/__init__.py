"""The conformance suite for teachers, a module for each thing that it looks at."""
