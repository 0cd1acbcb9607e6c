"""Evaluation: the four arms, what evaluators are given, and the statistics of what they return."""
