"""Mutual information of two arrays: coordinates, Gaussian base, network, training, cross-fitting and the estimate."""
