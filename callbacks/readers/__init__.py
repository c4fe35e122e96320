"""Read what a Trainer does while it trains: optimizer steps, autograd graphs, and how often that may be done."""
