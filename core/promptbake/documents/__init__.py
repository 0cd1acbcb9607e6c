"""The door for what comes from outside: files, answers and settings are read into typed values.

Everything is bounded (bytes, depth, digits), and what is wrong is one BakeError that names the
file, the line, the field, what was found and what was expected.
"""
