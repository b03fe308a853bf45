"""How the weights of the backbone `nano` are made: see README.md here."""
