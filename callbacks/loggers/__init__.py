"""Write numbers, texts and pictures to whatever logger a Trainer has."""
