"""Mutual information of two arrays: coordinates, Gaussian base, network, cross-fitting and the estimate."""
