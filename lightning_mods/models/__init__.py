"""MLPs as LightningModules."""
