"""Ranks: how they start, meet, agree, and notice that one is lost."""
