"""Worlds: prompts, and a judge that says which images follow them."""
