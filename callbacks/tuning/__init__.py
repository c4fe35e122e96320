"""Search hyperparameters before a Trainer's fit, and prune trials while they train."""
