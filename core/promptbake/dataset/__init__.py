"""Conversations: queries, sampled responses, the chat template, teacher-student alignment."""
