"""Programs drawn at random from all that bodies can do, and everything that a search reaches in them."""
