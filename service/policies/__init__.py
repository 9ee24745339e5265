"""Certified policies: made from labelled queries, kept, followed, and watched."""
