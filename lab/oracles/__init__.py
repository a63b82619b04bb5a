"""Mutual information known exactly: closed forms, their integrands, and the forty tasks."""
