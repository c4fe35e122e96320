"""Log the gradients of anybody's module, and how they flow through its layers."""
