"""Train without autograd: steps with the chain rule written out, trials as one batched network."""
