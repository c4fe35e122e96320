"""Parse the command line and run the verbs: here the three packages meet."""
