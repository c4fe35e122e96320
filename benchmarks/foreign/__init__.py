"""Our callbacks over the LightningModules of other packages: fitted without and with them, and compared bit by bit."""
