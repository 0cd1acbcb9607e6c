"""Distillation: the objective, the schedule, the loop, held-out KL, and what they keep on disk."""
